"""Any server that speaks Chat Completions, through the openai SDK. The only importer of that SDK.

The SDK's own retries are off: the relay retries, where a wait can be shown, counted and cancelled. Nothing is taken
from the environment: which key and which URL to use was decided in the config, and the SDK's own look at its variables
would send one provider's key, organisation or URL to another.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio

from massgen.errors import ModelError
from massgen.messages import Message, Reply, Request
from massgen.models.base import OnText
from massgen.models.chat_wire import Parts, first_words, to_wire, tools_to_wire
from massgen.models.translate import Endpoint

OPENAI_URL: Final = "https://api.openai.com/v1"
CONNECT_S: Final = 10.0
SILENCE_S: Final = 600.0
"""How long a server may send nothing. Ten minutes is the SDK's figure: models that think first are silent for long."""
TOP_WORDS: Final = 20
"""As many candidates as the protocol allows."""


@dataclass(frozen=True, kw_only=True)
class _Dialect:
    """What this server takes; learned from its refusals, as no server says it beforehand."""

    streams: bool = True
    counts_streamed: bool = True
    max_tokens: str = "max_tokens"

    def taught(self, status: int, said: str) -> _Dialect | None:
        """What a refusal teaches; None when nothing."""
        if status not in (400, 404, 405, 415, 422, 501):
            return None
        if self.max_tokens == "max_tokens" and "max_completion_tokens" in said:
            return replace(self, max_tokens="max_completion_tokens")
        if self.streams and self.counts_streamed and re.search(r"stream_options|include_usage", said):
            return replace(self, counts_streamed=False)
        if self.streams and re.search(r"\bstream(ing|ed)?\b", said, re.IGNORECASE):
            return replace(self, streams=False)
        return None


class ChatModel:
    """One model at one Chat Completions endpoint."""

    def __init__(
        self,
        *,
        model: str,
        base_url: str = OPENAI_URL,
        api_key: str = "",
        key_source: str = "",
        temperature: float | None = None,
        max_tokens: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        silence_s: float = SILENCE_S,
        loopback: bool = False,
    ) -> None:
        """`base_url` may end in /chat/completions. `loopback`: the server is our own, on this machine."""
        import openai

        url = base_url.rstrip("/").removesuffix("/chat/completions")
        self.name = model
        self.key_source = key_source
        self._endpoint = Endpoint(base_url=url, model=model, key_source=key_source, key=api_key)
        self._defaults = Request(messages=(), temperature=temperature, max_tokens=max_tokens)
        self._extra_body = dict(extra_body or {})
        self._silence_s = silence_s
        self._dialect = _Dialect()
        self._headers = {} if api_key else {"Authorization": openai.omit}
        timeout = openai.Timeout(silence_s, connect=CONNECT_S)
        self._client = openai.AsyncOpenAI(
            api_key=api_key or "none",
            admin_api_key="",
            base_url=url,
            max_retries=0,
            timeout=timeout,
            http_client=_direct(timeout) if loopback else None,
        )
        # Read from the environment by the constructor, and sent to whatever URL it is.
        self._client.organization = None
        self._client.project = None

    async def complete(self, request: Request, *, on_text: OnText | None = None) -> Reply:
        """One completion. Raises: ModelError."""
        import openai

        while True:
            try:
                return await self._ask(request, on_text)
            except openai.APIStatusError as error:
                # Once per habit at most, as each lesson can be learned only once.
                learned = self._dialect.taught(error.status_code, _said(error))
                if learned is None:
                    raise self._translated(error) from self._endpoint.cause(error)
                self._dialect = learned
            except openai.OpenAIError as error:
                raise self._translated(error) from self._endpoint.cause(error)

    async def first_words(self, messages: tuple[Message, ...]) -> dict[str, float]:
        """Log-probabilities of the likeliest first words of an answer. Raises: ModelError."""
        import openai

        body = self._body(Request(messages=messages, temperature=0.0, max_tokens=1))
        try:
            completion = await self._client.chat.completions.create(**body, logprobs=True, top_logprobs=TOP_WORDS)
            return first_words(completion.to_dict(warnings=False))
        except openai.OpenAIError as error:
            raise self._translated(error) from self._endpoint.cause(error)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self._endpoint.garbage(f"no word probabilities: {error!r}") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, request: Request, on_text: OnText | None) -> Reply:
        parts = Parts()
        async with aclosing(self._pieces(self._body(request), parts)) as pieces:
            async for piece in pieces:
                if piece and on_text is not None:
                    on_text(piece)
        if parts.finish is None:
            raise self._endpoint.cut_off() if parts.seen else self._endpoint.garbage("nothing in it")
        return parts.reply()

    async def _pieces(self, body: dict[str, Any], parts: Parts) -> AsyncGenerator[str]:
        """Ask, and fill `parts`. A generator, so that a mistake in `on_text` is not taken for a bad reply."""
        import httpx2

        try:
            if not self._dialect.streams:
                completion = await self._client.chat.completions.create(**body)
                yield parts.add_whole(completion.to_dict(warnings=False))
                return
            options: dict[str, Any] = {"stream_options": {"include_usage": True}} if self._dialect.counts_streamed else {}
            async with await self._client.chat.completions.create(**body, **options, stream=True) as stream:
                if stream.response.headers.get("content-type", "").startswith("application/json"):
                    # Asked to stream, the server ignored it. Its answer is paid for: read it as what it is.
                    yield parts.add_whole(json.loads(await stream.response.aread()))
                    return
                async for chunk in stream:
                    yield parts.add(chunk.to_dict(warnings=False))
        except (httpx2.HTTPError, OSError, anyio.EndOfStream) as error:
            # In the middle of a stream the SDK lets the transport's own errors through.
            raise self._endpoint.broken(error, self._silence_s) from self._endpoint.cause(error)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self._endpoint.garbage(f"{error!r}") from self._endpoint.cause(error)

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": to_wire(request.messages),
            "extra_body": self._extra_body,
            "extra_headers": self._headers,
        }
        temperature = request.temperature if request.temperature is not None else self._defaults.temperature
        max_tokens = request.max_tokens if request.max_tokens is not None else self._defaults.max_tokens
        optional = {"temperature": temperature, "seed": request.seed, self._dialect.max_tokens: max_tokens}
        body |= {key: value for key, value in optional.items() if value is not None}
        if request.tools:
            body["tools"] = tools_to_wire(request.tools)
        return body

    def _translated(self, error: Exception) -> ModelError:
        import openai

        if isinstance(error, openai.APIConnectionError):
            return self._endpoint.broken(error, self._silence_s)
        if isinstance(error, openai.APIStatusError):
            return self._endpoint.failure(error.status_code, _code(error), _said(error), error.response.headers)
        if isinstance(error, openai.APIError):
            return self._endpoint.failure(None, _code(error), error.message)
        return self._endpoint.garbage(f"{error}")


def _direct(timeout: Any) -> Any:  # noqa: ANN401  # the SDK is imported late, so its types have no names here
    """A client that knows no proxies, and that opens a connection for each request.

    llama.cpp's server may close a connection after a streamed answer without having said so; whoever reuses it loses
    that race now and then. On this machine a new connection costs nothing.
    """
    import httpx2
    import openai

    return openai.DefaultAsyncHttpx2Client(timeout=timeout, trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0))


def _said(error: Any) -> str:  # noqa: ANN401  # same
    """The provider's own words; the SDK's message repeats the whole body."""
    body = error.body
    return str(body.get("message") or body) if isinstance(body, dict) else str(body or error.message)


def _code(error: Any) -> str:  # noqa: ANN401  # same
    return " ".join(str(value) for value in (error.code, error.type) if value)
