"""How an SDK may speak HTTP: whoever answers, or answers in a provider's place, gets and gives no more than was agreed on.

Left to themselves the SDKs follow a redirect wherever it leads, with the whole conversation and, in headers that no HTTP library
knows for secrets (`api-key`, `x-goog-api-key`), with the key. They unpack without a limit what is compressed, and look at an
endless line from its beginning each time a piece of it comes, while all other agents wait. So: no redirect is followed, nothing
is compressed, and there is an end to what is read. The limits are far beyond what the longest honest reply takes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import httpx2

from massgen.models.translate import Improper

LINE_BYTES: Final = 16 << 20
"""Of one event, or of an answer that is not streamed."""
STREAM_BYTES: Final = 128 << 20
"""Of all events of one answer: 128,000 tokens, each with three times the usual wrapping."""


def guarded(**more: Any) -> dict[str, Any]:  # noqa: ANN401  # arguments of a constructor
    """What to make an `httpx2.AsyncClient` with; `more`: its other arguments."""
    return {
        "follow_redirects": False,
        "headers": {"accept-encoding": "identity"},
        "event_hooks": {"response": [_bound]},
        **more,
    }


async def _bound(response: httpx2.Response) -> None:
    """Called for each response before any of its body is read. Raises: Improper."""
    if packed := response.headers.get("content-encoding", "identity").strip().lower().removeprefix("identity"):
        raise Improper(f"it is packed as {packed[:20]}, which it was asked not to be")
    streamed = response.headers.get("content-type", "").startswith("text/event-stream")
    assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101  (the client is an asynchronous one)
    response.stream = _Bounded(response.stream, STREAM_BYTES if streamed else LINE_BYTES)


class _Bounded(httpx2.AsyncByteStream):
    """The bytes of one answer, as long as they are not too many."""

    def __init__(self, inner: httpx2.AsyncByteStream, most: int) -> None:
        self._inner = inner
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = line = 0
        async for chunk in self._inner:
            total += len(chunk)
            line = len(chunk) - 1 - end if (end := chunk.rfind(b"\n")) >= 0 else line + len(chunk)
            if total > self._most or line > LINE_BYTES:
                raise Improper(f"{total >> 20} MiB and no end")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
