"""The openai SDK, for everything that speaks its two protocols. The only importer of that SDK.

The SDK's own retries are off: the relay retries, where a wait can be shown, counted and cancelled. Nothing is taken
from the environment: which key and which URL to use was decided in the config, and the SDK's own look at its variables
would send one provider's key, organisation, headers or URL to another.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, Literal

import anyio

from massgen.errors import ModelError
from massgen.models.streamed import Heard, Refusal
from massgen.models.translate import Endpoint

OPENAI_URL: Final = "https://api.openai.com/v1"
CONNECT_S: Final = 10.0
SILENCE_S: Final = 600.0
"""How long a server may send nothing. Ten minutes is the SDK's figure: models that think first are silent for long."""

Protocol = Literal["chat", "responses"]


class OpenAIClient:
    """One server that speaks Chat Completions, Responses or both."""

    def __init__(
        self,
        *,
        model: str,
        base_url: str = OPENAI_URL,
        api_key: str = "",
        key_source: str = "",
        silence_s: float = SILENCE_S,
        loopback: bool = False,
        api_version: str = "",
    ) -> None:
        """`base_url` may end in /chat/completions or /responses. `loopback`: the server is our own, on this machine.

        `api_version`: given, the server is Azure's, which wants it as a query and the key in a header of its own.
        """
        import openai

        from massgen.models.guarded import guarded

        url = base_url.rstrip("/").removesuffix("/chat/completions").removesuffix("/responses").rstrip("/")
        self.endpoint = Endpoint(base_url=url, model=model, key_source=key_source, key=api_key)
        self._silence_s = silence_s
        timeout = openai.Timeout(silence_s, connect=CONNECT_S)
        http = _direct(timeout) if loopback else openai.DefaultAsyncHttpx2Client(**guarded(timeout=timeout))
        headers: dict[str, Any] = {} if api_key else {"Authorization": openai.omit}
        query: dict[str, object] = {}
        if api_version:
            headers = {"Authorization": openai.omit, "api-key": api_key}
            query = {"api-version": api_version}
        self._client = openai.AsyncOpenAI(
            api_key=api_key or "none",
            admin_api_key="",
            base_url=url,
            max_retries=0,
            timeout=timeout,
            http_client=http,
            default_query=query,
        )
        # Read from the environment by the constructor, and sent to whatever URL it is.
        self._client.organization = None
        self._client.project = None
        self._client._custom_headers = {}  # noqa: SLF001 - OPENAI_CUSTOM_HEADERS; no constructor argument keeps it out
        self._headers = headers

    async def ask(self, protocol: Protocol, body: Mapping[str, Any], *, stream: bool) -> AsyncGenerator[Heard]:
        """Ask and listen. Raises: Refusal, ModelError."""
        import httpx2
        import openai

        create: Any = self._client.chat.completions.create if protocol == "chat" else self._client.responses.create
        try:
            if not stream:
                answer = await create(**body, extra_headers=self._headers)
                yield Heard(answer.to_dict(warnings=False), whole=True)
                return
            async with await create(**body, extra_headers=self._headers, stream=True) as events:
                if events.response.headers.get("content-type", "").startswith("application/json"):
                    # Asked to stream, the server ignored it. Its answer is paid for: read it as what it is.
                    yield Heard(json.loads(await events.response.aread()), whole=True)
                    return
                async for event in events:
                    yield Heard(event.to_dict(warnings=False))
        except openai.OpenAIError as error:
            raise self._refusal(error) from self.endpoint.cause(error)
        except (httpx2.HTTPError, OSError, anyio.EndOfStream) as error:
            # In the middle of a stream the SDK lets the transport's own errors through.
            raise self.endpoint.broken(error, self._silence_s) from self.endpoint.cause(error)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self.endpoint.garbage(f"{error!r}") from self.endpoint.cause(error)

    async def models(self) -> tuple[str, ...]:
        """What the server offers, by its own list. Raises: ModelError."""
        import httpx2
        import openai

        try:
            page = await self._client.models.list(extra_headers=self._headers)
            return tuple(str(model.id) for model in page.data)
        except openai.OpenAIError as error:
            raise self._refusal(error).meaning from self.endpoint.cause(error)
        except (httpx2.HTTPError, OSError, anyio.EndOfStream) as error:
            raise self.endpoint.broken(error, self._silence_s) from self.endpoint.cause(error)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self.endpoint.garbage(f"{error!r}") from self.endpoint.cause(error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _refusal(self, error: Exception) -> Refusal:
        import openai

        if isinstance(error, openai.APIConnectionError):
            return Refusal(self.endpoint.broken(error, self._silence_s))
        meaning: ModelError
        if isinstance(error, openai.APIStatusError):
            said = _said(error)
            meaning = self.endpoint.failure(error.status_code, _code(error), said, error.response.headers)
            return Refusal(meaning, status=error.status_code, said=said)
        if isinstance(error, openai.APIError):
            return Refusal(self.endpoint.failure(None, _code(error), error.message))
        return Refusal(self.endpoint.garbage(f"{error}"))


def _direct(timeout: Any) -> Any:  # noqa: ANN401  # the SDK is imported late, so its types have no names here
    """A client that knows no proxies, and that opens a connection for each request.

    llama.cpp's server may close a connection after a streamed answer without having said so; whoever reuses it loses
    that race now and then. On this machine a new connection costs nothing.
    """
    import httpx2
    import openai

    from massgen.models.guarded import guarded

    limits = httpx2.Limits(max_keepalive_connections=0)
    return openai.DefaultAsyncHttpx2Client(**guarded(timeout=timeout, trust_env=False, limits=limits))


def _said(error: Any) -> str:  # noqa: ANN401  # same
    """The provider's own words; the SDK's message repeats the whole body."""
    body = error.body
    return str(body.get("message") or body) if isinstance(body, dict) else str(body or error.message)


def _code(error: Any) -> str:  # noqa: ANN401  # same
    return " ".join(str(value) for value in (error.code, error.type) if value)
