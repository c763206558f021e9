"""What a container says, out of the pieces in which its engine hands it on: each behind a header that names the stream.

The pieces are a few KiB long and know nothing of our frames. They are put together again before anybody looks at them: once for
each arrival costs half of what a look at each piece does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

LAST_WORDS_BYTES = 64 * 1024
_HEADER = struct.Struct(">BxxxL")


class Pieces:
    """The reading end; `words` is what was said on any other stream than stdout."""

    def __init__(self) -> None:
        self.words = bytearray()
        """The first 64 KiB of it."""
        self._head = bytearray()
        self._source = self._left = 0
        """Where the next `_left` bytes come from."""

    def feed(self, chunk: memoryview, take: Callable[[bytes | memoryview], None]) -> None:
        """What arrived, cut anywhere; `take` gets what of it was said on stdout, for the time of its call."""
        at, size = 0, len(chunk)
        said: list[memoryview] = []
        while at < size:
            if not self._left:
                if self._head or size - at < _HEADER.size:
                    more = chunk[at : at + _HEADER.size - len(self._head)]
                    self._head += more
                    at += len(more)
                    if len(self._head) < _HEADER.size:
                        break
                    self._source, self._left = _HEADER.unpack(self._head)
                    self._head.clear()
                else:
                    self._source, self._left = _HEADER.unpack_from(chunk, at)
                    at += _HEADER.size
            piece = chunk[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            if self._source == 1:
                said.append(piece)
            else:
                self.words += piece[: LAST_WORDS_BYTES - len(self.words)]
        if said:
            take(said[0] if len(said) == 1 else b"".join(said))
