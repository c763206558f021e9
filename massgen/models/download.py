"""One file over HTTP, whole or to be continued: large, on connections that break.

A connection that drops is taken up where it ended, as long as each try brings something. A server that begins anew, or whose
file has changed meanwhile (`If-Range`), starts the file anew. Nothing here says what is in the file: who asks checks its hash.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import IO, Final

from massgen.errors import ModelError

OnBytes = Callable[[int, int | None], None]
"""Called with what is there and the whole size (None: the server does not say) after each piece."""

CONNECT_S: Final = 5.0
"""How long a server may take to accept a connection: where it cannot be reached, this is the user's waiting time."""
STALL_S: Final = 30.0
CHUNK_BYTES: Final = 1 << 20
SPARE_BYTES: Final = 64 << 20
FRUITLESS: Final = 3
"""Tries in a row that may bring nothing."""
PAUSE_S: Final = 0.5


class WeightsUnavailable(ModelError):
    """A model file could not be fetched; the message says what was tried and what to do."""


class WrongWeights(WeightsUnavailable):
    """Something arrived that is not the file that was asked for; it has been deleted."""


def download(url: str, partial: Path, *, size_bytes: int | None = None, on_bytes: OnBytes | None = None) -> None:
    """Fill `partial`, continuing what is there. `size_bytes` None: as the server says. Blocks.

    Raises: WeightsUnavailable (what is there stays, for the next call), WrongWeights (more than `size_bytes`).
    """
    # Not urllib: its one timeout serves for connecting and for reading, and its certificates are not the system's.
    import httpx2  # 70 ms that a run with the file in place does not pay

    fruitless = 0
    timeout = httpx2.Timeout(STALL_S, connect=CONNECT_S)
    with httpx2.Client(timeout=timeout, follow_redirects=True) as client:
        while True:
            before = _size(partial)
            if size_bytes is not None and before == size_bytes:
                return
            require_room(partial.parent, (size_bytes or 0) - before)
            try:
                if _fetch(client, url, partial, size_bytes, on_bytes):
                    return
                why = "the connection ended before the file did"
            except httpx2.HTTPStatusError as error:
                raise WeightsUnavailable(f"{url} answered {error.response.status_code}") from error
            except (httpx2.HTTPError, OSError) as error:
                why = f"{type(error).__name__}: {error}"
            fruitless = 0 if _size(partial) > before else fruitless + 1
            if fruitless >= FRUITLESS or not _size(partial):
                raise WeightsUnavailable(f"{why}; {_size(partial)} bytes are kept, and the next try goes on from there")
            time.sleep(PAUSE_S * fruitless)


def _fetch(client: object, url: str, partial: Path, size_bytes: int | None, on_bytes: OnBytes | None) -> bool:
    """One request; whether the file is whole now. Raises: what httpx2 raises."""
    import httpx2

    assert isinstance(client, httpx2.Client)  # noqa: S101  (the annotation would import it)
    tag = partial.with_name(f"{partial.name}.etag")
    have = _size(partial)
    if size_bytes is not None and have > size_bytes:
        partial.unlink()
        have = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    if have and tag.exists():
        headers["If-Range"] = tag.read_text(encoding="ascii")
    with client.stream("GET", url, headers=headers) as response:
        if have and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return response.headers.get("content-range") == f"bytes */{have}"
        response.raise_for_status()
        continued = response.status_code == HTTPStatus.PARTIAL_CONTENT
        have = have if continued else 0
        length = response.headers.get("content-length", "")
        total = size_bytes or (have + int(length) if length.isdigit() else None)
        require_room(partial.parent, (total or 0) - have)
        etag = response.headers.get("etag", "")
        if etag.isascii() and etag and not etag.startswith("W/"):
            tag.write_text(etag, encoding="ascii")
        with partial.open("ab" if continued else "wb") as file:
            _write(response.iter_raw(), file, have, total, on_bytes)
    return total is None or _size(partial) == total


def _write(chunks: Iterator[bytes], file: IO[bytes], have: int, total: int | None, on_bytes: OnBytes | None) -> None:
    """Stops a sender that would fill the disk."""
    for chunk in chunks:
        have += len(chunk)
        if total is not None and have > total:
            raise WrongWeights("more bytes than the file has")
        file.write(chunk)
        if on_bytes:
            on_bytes(have, total)


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raises: WeightsUnavailable when the disk is too full."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise WeightsUnavailable(f"{size_text(needed_bytes + SPARE_BYTES)} are needed in {folder} and {size_text(free)} are free")


def size_text(size_bytes: int) -> str:
    """`1.12 GB`."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 10**8 else f"{size_bytes / 1e6:.1f} MB"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
