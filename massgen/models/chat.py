"""Any server that speaks Chat Completions."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from massgen.messages import Message, Reply, Request, Usage
from massgen.models.base import OnPiece, Options
from massgen.models.chat_wire import Parts, first_words, to_wire, tools_to_wire, usage_of
from massgen.models.openai_sdk import OpenAIClient
from massgen.models.streamed import Refusal, assemble

TOP_WORDS: Final = 20
"""As many candidates as the protocol allows."""


@dataclass(frozen=True, kw_only=True)
class _Dialect:
    """What this server takes; learned from its refusals, as no server says it beforehand."""

    streams: bool = True
    counts_streamed: bool = True
    max_tokens: str = "max_tokens"
    thoughts: bool = True
    """Whether it takes back what its model thought."""

    def taught(self, status: int, said: str) -> _Dialect | None:
        """What a refusal teaches; None when nothing."""
        if status not in (400, 404, 405, 415, 422, 501):
            return None
        if self.max_tokens == "max_tokens" and "max_completion_tokens" in said:
            return replace(self, max_tokens="max_completion_tokens")
        if self.streams and self.counts_streamed and re.search(r"stream_options|include_usage", said):
            return replace(self, counts_streamed=False)
        if self.thoughts and re.search(r"\breasoning(_content)?\b(?!_effort)", said):
            return replace(self, thoughts=False)
        if self.streams and refuses_streaming(said):
            return replace(self, streams=False)
        return None


def refuses_streaming(said: str) -> bool:
    """Whether a provider's words are about streaming."""
    return re.search(r"\bstream(ing|ed)?\b", said, re.IGNORECASE) is not None


class ChatModel:
    """One model at one Chat Completions endpoint."""

    def __init__(self, client: OpenAIClient, *, options: Options = Options(), xai_search: bool = False) -> None:  # noqa: B008 - frozen
        """`xai_search`: the server is xAI's, which takes the wish to search the web as `search_parameters`."""
        self.endpoint = client.endpoint
        self.name = client.endpoint.model
        self.key_source = client.endpoint.key_source
        self._client = client
        self._options = options
        self._extra_body = dict(options.extra_body)
        if xai_search and "web_search" in options.hosted:
            self._extra_body["search_parameters"] = _search_parameters(options)
        self._dialect = _Dialect()

    async def complete(self, request: Request, *, on_piece: OnPiece | None = None) -> Reply:
        """One completion. Raises: ModelError."""
        while True:
            body = self._body(request)
            streams = self._dialect.streams
            if streams and self._dialect.counts_streamed:
                body["stream_options"] = {"include_usage": True}
            try:
                heard = self._client.ask("chat", body, stream=streams)
                return await assemble(heard, Parts(), self._client.endpoint, on_piece)
            except Refusal as refusal:
                # Once per habit at most, as each lesson can be learned only once.
                learned = self._dialect.taught(refusal.status, refusal.said)
                if learned is None:
                    raise refusal.meaning from refusal.__cause__
                self._dialect = learned

    async def first_words(self, messages: tuple[Message, ...]) -> tuple[dict[str, float], Usage]:
        """Log-probabilities of the likeliest first words of an answer, and what that took. Raises: ModelError."""
        body = self._body(Request(messages=messages, temperature=0.0, max_tokens=1))
        body |= {"logprobs": True, "top_logprobs": TOP_WORDS}
        try:
            answers = [heard.event async for heard in self._client.ask("chat", body, stream=False)]
            return first_words(answers[0]), usage_of(answers[0].get("usage") or {})
        except Refusal as refusal:
            raise refusal.meaning from refusal.__cause__
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self._client.endpoint.garbage(f"no word probabilities: {error!r}") from error

    async def models(self) -> tuple[str, ...]:
        """What the server offers, by its own list. Raises: ModelError."""
        return await self._client.models()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        return to_wire(request.messages, thoughts=self._dialect.thoughts)

    def _body(self, request: Request) -> dict[str, Any]:
        options = self._options
        body: dict[str, Any] = {"model": self.name, "messages": self._messages(request), "extra_body": self._extra_body}
        temperature = request.temperature if request.temperature is not None else options.temperature
        max_tokens = request.max_tokens if request.max_tokens is not None else options.max_tokens
        optional = {
            "temperature": temperature,
            "top_p": options.top_p,
            "seed": request.seed,
            self._dialect.max_tokens: max_tokens,
            "reasoning_effort": options.effort,
            "verbosity": options.verbosity,
        }
        body |= {key: value for key, value in optional.items() if value is not None}
        if request.tools:
            body["tools"] = tools_to_wire(request.tools)
        return body


def _search_parameters(options: Options) -> dict[str, Any]:
    search = options.search
    asked = {"max_search_results": search.get("max_results")}
    return {
        "mode": search.get("mode", "auto"),
        "return_citations": search.get("citations", True),
        **{key: value for key, value in asked.items() if value is not None},
    }
