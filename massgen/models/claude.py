"""Anthropic's Messages API through the anthropic SDK. The only importer of that SDK.

Two traps. Without a key the SDK goes looking for one in variables, profiles and files: a key is always passed, and
nothing is opened without one. And the API no longer takes a temperature: asked for, it is left out, so
that one config can serve several providers.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import anyio

from massgen.errors import ConfigError
from massgen.messages import Reply, Request
from massgen.models.base import OnPiece, Options
from massgen.models.chat import refuses_streaming
from massgen.models.claude_wire import Blocks, cached, to_wire, tools_to_wire
from massgen.models.streamed import Heard, Refusal, assemble
from massgen.models.translate import Endpoint

ANTHROPIC_URL: Final = "https://api.anthropic.com"
MAX_TOKENS: Final = 16_384
"""The API wants a figure. Room for a long file with thinking before it, and below the output limit of every model
that is still served."""
MIN_ANSWER_TOKENS: Final = 4096
"""Left for the answer beside the thinking that was asked for."""
LEAST_THINKING_TOKENS: Final = 1024
"""The API refuses less."""
CONNECT_S: Final = 10.0
SILENCE_S: Final = 600.0


class ClaudeModel:
    """One Claude model at one Messages endpoint."""

    def __init__(
        self,
        *,
        model: str,
        api_key: str,
        base_url: str = ANTHROPIC_URL,
        key_source: str = "",
        options: Options = Options(),  # noqa: B008 - frozen
        silence_s: float = SILENCE_S,
    ) -> None:
        """`base_url` may end in /v1 or /v1/messages. Raises: ConfigError without a key."""
        import anthropic

        from massgen.models.guarded import guarded

        if not api_key:
            raise ConfigError(f"the model {model} needs a key: set {key_source or 'ANTHROPIC_API_KEY'}, or api_key in the config")
        url = base_url.rstrip("/").removesuffix("/messages").removesuffix("/v1")
        self.name = model
        self.key_source = key_source
        self._endpoint = Endpoint(base_url=url, model=model, key_source=key_source, key=api_key)
        self._options = options
        self._silence_s = silence_s
        self._streams = True
        timeout = anthropic.Timeout(silence_s, connect=CONNECT_S)
        http = anthropic.DefaultAsyncHttpxClient(**guarded(timeout=timeout))
        self._client = anthropic.AsyncAnthropic(api_key=api_key, base_url=url, max_retries=0, timeout=timeout, http_client=http)
        # ANTHROPIC_CUSTOM_HEADERS would go to whatever URL it is; no constructor argument keeps it out.
        self._client._custom_headers = {}  # noqa: SLF001

    async def complete(self, request: Request, *, on_piece: OnPiece | None = None) -> Reply:
        """One completion. Raises: ModelError."""
        while True:
            try:
                heard = self._ask(self._body(request), stream=self._streams)
                return await assemble(heard, Blocks(), self._endpoint, on_piece)
            except Refusal as refusal:
                if not self._streams or not _refuses_streaming(refusal.status, refusal.said):
                    raise refusal.meaning from refusal.__cause__
                self._streams = False

    async def models(self) -> tuple[str, ...]:
        """What the server offers, by its own list. Raises: ModelError."""
        import anthropic
        import httpx2

        try:
            page = await self._client.models.list(limit=1000)
            return tuple(str(model.id) for model in page.data)
        except anthropic.AnthropicError as error:
            raise self._refusal(error).meaning from self._endpoint.cause(error)
        except (httpx2.HTTPError, OSError, anyio.EndOfStream) as error:
            raise self._endpoint.broken(error, self._silence_s) from self._endpoint.cause(error)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self._endpoint.garbage(f"{error!r}") from self._endpoint.cause(error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, body: dict[str, Any], *, stream: bool) -> AsyncGenerator[Heard]:
        """Ask and listen. Raises: Refusal, ModelError."""
        import anthropic
        import httpx2

        try:
            if not stream:
                message = await self._client.messages.create(**body)
                yield Heard(message.to_dict(warnings=False), whole=True)
                return
            async with await self._client.messages.create(**body, stream=True) as events:
                if events.response.headers.get("content-type", "").startswith("application/json"):
                    # Asked to stream, the server ignored it. Its answer is paid for: read it as what it is.
                    yield Heard(json.loads(await events.response.aread()), whole=True)
                    return
                async for event in events:
                    yield Heard(event.to_dict(warnings=False))
        except anthropic.AnthropicError as error:
            raise self._refusal(error) from self._endpoint.cause(error)
        except (httpx2.HTTPError, OSError, anyio.EndOfStream) as error:
            # In the middle of a stream the SDK lets the transport's own errors through.
            raise self._endpoint.broken(error, self._silence_s) from self._endpoint.cause(error)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self._endpoint.garbage(f"{error!r}") from self._endpoint.cause(error)

    def _body(self, request: Request) -> dict[str, Any]:
        options = self._options
        system, messages = to_wire(request.messages)
        thinking = options.thinking_tokens
        room = request.max_tokens or options.max_tokens or max(MAX_TOKENS, (thinking or 0) + MIN_ANSWER_TOKENS)
        body: dict[str, Any] = {"model": self.name, "messages": messages, "extra_body": dict(options.extra_body)}
        if thinking is not None:
            # The API counts thinking as output, and what a call may take was reserved: less room is less thinking, not more room.
            thinking = thinking if thinking < room else room // 2
            enough = thinking >= LEAST_THINKING_TOKENS
            body["thinking"] = {"type": "enabled", "budget_tokens": thinking} if enough else {"type": "disabled"}
        body["max_tokens"] = room
        if options.effort:
            body["output_config"] = {"effort": options.effort}
        if system:
            body["system"] = system
        if tools := tools_to_wire(request.tools, options):
            body["tools"] = tools
        return cached(body)

    def _refusal(self, error: Exception) -> Refusal:
        import anthropic

        if isinstance(error, anthropic.APIConnectionError):
            return Refusal(self._endpoint.broken(error, self._silence_s))
        if isinstance(error, anthropic.APIStatusError):
            said = _said(error)
            meaning = self._endpoint.failure(error.status_code, error.type or "", said, error.response.headers)
            return Refusal(meaning, status=error.status_code, said=said)
        return Refusal(self._endpoint.garbage(f"{error}"))


def _refuses_streaming(status: int, said: str) -> bool:
    return status in (400, 404, 405, 415, 422, 501) and refuses_streaming(said)


def _said(error: Any) -> str:  # noqa: ANN401  # the SDK is imported late, so its types have no names here
    """The provider's own words; the SDK's message repeats the whole body."""
    return str(error.api_message or error.body or error.message)
