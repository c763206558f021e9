"""Google's generateContent through the google-genai SDK. The only importer of that SDK.

Two traps. The SDK would call Python functions by itself: it is given declarations only, and that is switched off. And it takes
a key, a URL and a choice of service from half a dozen variables: all of them are passed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any, Final

import anyio

from massgen.errors import ConfigError
from massgen.messages import Reply, Request
from massgen.models.base import OnPiece, Options
from massgen.models.chat import refuses_streaming
from massgen.models.gemini_wire import Candidate, to_wire, tools_to_wire
from massgen.models.streamed import Heard, Refusal, assemble
from massgen.models.translate import Endpoint

GEMINI_URL: Final = "https://generativelanguage.googleapis.com"
API_VERSION: Final = "v1beta"
"""Thought signatures, JSON schema of parameters and most hosted tools are only there."""
SILENCE_S: Final = 600.0


class GeminiModel:
    """One Gemini model."""

    def __init__(
        self,
        *,
        model: str,
        api_key: str,
        base_url: str = GEMINI_URL,
        key_source: str = "",
        options: Options = Options(),  # noqa: B008 - frozen
        silence_s: float = SILENCE_S,
    ) -> None:
        """`base_url` without a version. Raises: ConfigError without a key."""
        import httpx2
        from google import genai
        from google.genai import types

        from massgen.models.guarded import guarded

        if not api_key:
            raise ConfigError(f"the model {model} needs a key: set {key_source or 'GEMINI_API_KEY'}, or api_key in the config")
        url = base_url.rstrip("/").removesuffix("/v1beta").removesuffix("/v1")
        self.name = model
        self.key_source = key_source
        self._endpoint = Endpoint(base_url=url, model=model, key_source=key_source, key=api_key)
        self._options = options
        self._silence_s = silence_s
        self._streams = True
        # One of ours, which the SDK does not close; else it would take aiohttp, where that is installed.
        self._http = httpx2.AsyncClient(**guarded())
        http = types.HttpOptions(
            base_url=url,
            api_version=API_VERSION,
            timeout=int(silence_s * 1000),
            retry_options=types.HttpRetryOptions(attempts=1),
            httpx_async_client=self._http,
        )
        self._client = genai.Client(enterprise=False, api_key=api_key, http_options=http).aio

    async def complete(self, request: Request, *, on_piece: OnPiece | None = None) -> Reply:
        """One completion. Raises: ModelError."""
        while True:
            try:
                heard = self._ask(request, stream=self._streams)
                return await assemble(heard, Candidate(), self._endpoint, on_piece)
            except Refusal as refusal:
                if not self._streams or refusal.status not in (400, 404, 405, 501) or not refuses_streaming(refusal.said):
                    raise refusal.meaning from refusal.__cause__
                self._streams = False

    async def models(self) -> tuple[str, ...]:
        """What the server offers, by its own list. Raises: ModelError."""
        import httpx2
        from google.genai import errors

        try:
            page = await self._client.models.list(config={"page_size": 1000})
            return tuple(str(model.name).removeprefix("models/") for model in page.page)
        except errors.APIError as error:
            said = str(error.message or error)
            meaning = self._endpoint.failure(error.code, str(error.status or ""), said, _headers(error))
            raise meaning from self._endpoint.cause(error)
        except (httpx2.HTTPError, OSError, anyio.EndOfStream) as error:
            raise self._endpoint.broken(error, self._silence_s) from self._endpoint.cause(error)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self._endpoint.garbage(f"{error!r}") from self._endpoint.cause(error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        await self._http.aclose()

    async def _ask(self, request: Request, *, stream: bool) -> AsyncGenerator[Heard]:
        """Ask and listen. Raises: Refusal, ModelError."""
        import httpx2
        from google.genai import errors

        system, contents = to_wire(request.messages)
        asked: dict[str, Any] = {"model": self.name, "contents": contents, "config": self._config(request, system)}
        try:
            if not stream:
                answer = await self._client.models.generate_content(**asked)
                yield Heard(_plain(answer), whole=True)
                return
            async for chunk in await self._client.models.generate_content_stream(**asked):
                yield Heard(_plain(chunk))
        except errors.APIError as error:
            said = str(error.message or error)
            meaning = self._endpoint.failure(error.code, str(error.status or ""), said, _headers(error))
            raise Refusal(meaning, status=error.code, said=said) from self._endpoint.cause(error)
        except (httpx2.HTTPError, OSError, anyio.EndOfStream) as error:
            raise self._endpoint.broken(error, self._silence_s) from self._endpoint.cause(error)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self._endpoint.garbage(f"{error!r}") from self._endpoint.cause(error)

    def _config(self, request: Request, system: str) -> Any:  # noqa: ANN401  # the SDK is imported late
        from google.genai import types

        options = self._options
        thinking: dict[str, Any] = {}
        if options.thinking_tokens is not None:
            thinking["thinking_budget"] = options.thinking_tokens
        if options.effort:
            thinking["thinking_level"] = options.effort.upper()
        if options.summary:
            thinking["include_thoughts"] = True
        tools: Any = tools_to_wire(request.tools, options.hosted)
        optional: dict[str, Any] = {
            "system_instruction": system or None,
            "temperature": request.temperature if request.temperature is not None else options.temperature,
            "top_p": options.top_p,
            "seed": request.seed,
            "max_output_tokens": request.max_tokens if request.max_tokens is not None else options.max_tokens,
            "tools": tools or None,
            "thinking_config": types.ThinkingConfig(**thinking) if thinking else None,
        }
        return types.GenerateContentConfig(
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            http_options=types.HttpOptions(extra_body=dict(options.extra_body)) if options.extra_body else None,
            **{key: value for key, value in optional.items() if value is not None},
        )


def _plain(answer: Any) -> dict[str, Any]:  # noqa: ANN401  # the SDK is imported late
    """As the wire has it: camel case, bytes (signatures) as base64."""
    plain: dict[str, Any] = answer.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"sdk_http_response"})
    return plain


def _headers(error: Any) -> dict[str, str]:  # noqa: ANN401  # same
    headers = {str(k).lower(): str(v) for k, v in (getattr(error.response, "headers", None) or {}).items()}
    # This API says in the body how long to wait, as `{"@type": "…RetryInfo", "retryDelay": "21s"}`.
    if told := re.search(r"retryDelay\W+([\d.]+)s", str(error.details)):
        headers.setdefault("retry-after", told.group(1))
    return headers
