"""Anthropic's Messages API through the anthropic SDK. The only importer of that SDK.

Two traps. Without a key the SDK goes looking for one in variables, profiles and files: a key is always passed, and
nothing is opened without one. And the API no longer takes a temperature: asked for, it is left out (`IGNORES`), so
that one config can serve several providers.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

import anyio

from massgen.errors import ConfigError, ModelError
from massgen.messages import Reply, Request
from massgen.models.base import OnText
from massgen.models.claude_wire import Blocks, to_wire, tools_to_wire
from massgen.models.translate import Endpoint

ANTHROPIC_URL: Final = "https://api.anthropic.com"
IGNORES: Final = ("temperature", "seed")
"""What a config may ask for and the provider does not take."""
MAX_TOKENS: Final = 16_384
"""The API wants a figure. Room for a long file with thinking before it, and below the output limit of every model
that is still served."""
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
        max_tokens: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        """`base_url` may end in /v1 or /v1/messages. Raises: ConfigError without a key."""
        import anthropic

        if not api_key:
            raise ConfigError(f"the model {model} needs a key: set {key_source or 'ANTHROPIC_API_KEY'}, or api_key in the config")
        url = base_url.rstrip("/").removesuffix("/messages").removesuffix("/v1")
        self.name = model
        self.key_source = key_source
        self._endpoint = Endpoint(base_url=url, model=model, key_source=key_source, key=api_key)
        self._max_tokens = max_tokens or MAX_TOKENS
        self._extra_body = dict(extra_body or {})
        self._silence_s = silence_s
        self._streams = True
        timeout = anthropic.Timeout(silence_s, connect=CONNECT_S)
        self._client = anthropic.AsyncAnthropic(api_key=api_key, base_url=url, max_retries=0, timeout=timeout)

    async def complete(self, request: Request, *, on_text: OnText | None = None) -> Reply:
        """One completion. Raises: ModelError."""
        import anthropic

        while True:
            try:
                return await self._ask(request, on_text)
            except anthropic.APIStatusError as error:
                if not self._streams or not _refuses_streaming(error.status_code, _said(error)):
                    raise self._translated(error) from self._endpoint.cause(error)
                self._streams = False
            except anthropic.AnthropicError as error:
                raise self._translated(error) from self._endpoint.cause(error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, request: Request, on_text: OnText | None) -> Reply:
        blocks = Blocks()
        async with aclosing(self._pieces(self._body(request), blocks)) as pieces:
            async for piece in pieces:
                if piece and on_text is not None:
                    on_text(piece)
        if blocks.stop_reason is None:
            raise self._endpoint.cut_off() if blocks.seen else self._endpoint.garbage("nothing in it")
        return blocks.reply()

    async def _pieces(self, body: dict[str, Any], blocks: Blocks) -> AsyncGenerator[str]:
        """Ask, and fill `blocks`. A generator, so that a mistake in `on_text` is not taken for a bad reply."""
        import httpx2

        try:
            if not self._streams:
                message = await self._client.messages.create(**body)
                yield blocks.add_whole(message.to_dict(warnings=False))
                return
            async with await self._client.messages.create(**body, stream=True) as stream:
                if stream.response.headers.get("content-type", "").startswith("application/json"):
                    # Asked to stream, the server ignored it. Its answer is paid for: read it as what it is.
                    yield blocks.add_whole(json.loads(await stream.response.aread()))
                    return
                async for event in stream:
                    yield blocks.add(event.to_dict(warnings=False))
        except (httpx2.HTTPError, OSError, anyio.EndOfStream) as error:
            # In the middle of a stream the SDK lets the transport's own errors through.
            raise self._endpoint.broken(error, self._silence_s) from self._endpoint.cause(error)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self._endpoint.garbage(f"{error!r}") from self._endpoint.cause(error)

    def _body(self, request: Request) -> dict[str, Any]:
        system, messages = to_wire(request.messages)
        body: dict[str, Any] = {
            "model": self.name,
            "messages": messages,
            "max_tokens": request.max_tokens or self._max_tokens,
            "extra_body": self._extra_body,
        }
        if system:
            body["system"] = system
        if request.tools:
            body["tools"] = tools_to_wire(request.tools)
        return body

    def _translated(self, error: Exception) -> ModelError:
        import anthropic

        if isinstance(error, anthropic.APIConnectionError):
            return self._endpoint.broken(error, self._silence_s)
        if isinstance(error, anthropic.APIStatusError):
            return self._endpoint.failure(error.status_code, error.type or "", _said(error), error.response.headers)
        return self._endpoint.garbage(f"{error}")


def _refuses_streaming(status: int, said: str) -> bool:
    return status in (400, 404, 405, 415, 422, 501) and re.search(r"\bstream(ing|ed)?\b", said, re.IGNORECASE) is not None


def _said(error: Any) -> str:  # noqa: ANN401  # the SDK is imported late, so its types have no names here
    """The provider's own words; the SDK's message repeats the whole body."""
    return str(error.api_message or error.body or error.message)
