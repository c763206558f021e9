"""OpenAI's Responses API: OpenAI itself, and Azure's deployments of it.

The conversation is kept here, never at the provider: `store` is off, no earlier response is named, and reasoning comes
back encrypted, to be returned as it came. So nothing of a run stays behind, and a request is complete in itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from massgen.messages import Reply, Request
from massgen.models.base import OnPiece, Options
from massgen.models.chat import refuses_streaming
from massgen.models.openai_sdk import OpenAIClient
from massgen.models.responses_wire import Items, to_wire, tools_to_wire
from massgen.models.streamed import Refusal, assemble


@dataclass(frozen=True, kw_only=True)
class _Dialect:
    """What this model takes; learned from its refusals."""

    streams: bool = True
    encrypted: bool = True
    """Whether its reasoning may be asked for: models that do not reason refuse the question."""
    temperature: bool = True

    def taught(self, status: int, said: str) -> _Dialect | None:
        """What a refusal teaches; None when nothing."""
        if status not in (400, 404, 405, 415, 422, 501):
            return None
        if self.encrypted and ("encrypted_content" in said or "encrypted content" in said.lower()):
            return replace(self, encrypted=False)
        if self.temperature and ("'temperature'" in said or "'top_p'" in said):
            return replace(self, temperature=False)
        if self.streams and refuses_streaming(said):
            return replace(self, streams=False)
        return None


class ResponsesModel:
    """One model at one Responses endpoint."""

    def __init__(self, client: OpenAIClient, *, options: Options = Options()) -> None:  # noqa: B008 - frozen
        self.name = client.endpoint.model
        self.key_source = client.endpoint.key_source
        self._client = client
        self._options = options
        self._dialect = _Dialect()

    async def complete(self, request: Request, *, on_piece: OnPiece | None = None) -> Reply:
        """One completion. Raises: ModelError."""
        while True:
            try:
                heard = self._client.ask("responses", self._body(request), stream=self._dialect.streams)
                return await assemble(heard, Items(self._client.endpoint), self._client.endpoint, on_piece)
            except Refusal as refusal:
                learned = self._dialect.taught(refusal.status, refusal.said)
                if learned is None:
                    raise refusal.meaning from refusal.__cause__
                self._dialect = learned

    async def models(self) -> tuple[str, ...]:
        """What the server offers, by its own list. Raises: ModelError."""
        return await self._client.models()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _body(self, request: Request) -> dict[str, Any]:
        options = self._options
        instructions, items = to_wire(request.messages)
        body: dict[str, Any] = {
            "model": self.name,
            "input": items,
            "store": False,
            "include": ["reasoning.encrypted_content"] if self._dialect.encrypted else [],
            "extra_body": dict(options.extra_body),
        }
        max_tokens = request.max_tokens if request.max_tokens is not None else options.max_tokens
        temperature = request.temperature if request.temperature is not None else options.temperature
        reasoning = {"effort": options.effort, "summary": options.summary}
        optional: dict[str, Any] = {
            "instructions": instructions or None,
            "max_output_tokens": max_tokens,
            "temperature": temperature if self._dialect.temperature else None,
            "top_p": options.top_p if self._dialect.temperature else None,
            "reasoning": {key: value for key, value in reasoning.items() if value} or None,
            "text": {"verbosity": options.verbosity} if options.verbosity else None,
            "tools": tools_to_wire(request.tools, options.hosted) or None,
        }
        return body | {key: value for key, value in optional.items() if value is not None}
