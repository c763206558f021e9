"""The frame codec, one file for both sides (standard library only, Python 3.9 and newer).

A frame is 1 byte kind, 4 bytes channel, 4 bytes length (big-endian) and at most 1 MiB of payload. The first frame each
way is `HELLO`. Channels are opened by the host with ids that only grow; a `DATA` payload begins with one byte that names the
stream (1 or 2). Each side may send `WINDOW` bytes of data on a channel before the other grants more with `CREDIT`, so no
channel can starve another or grow the other side's memory. `CREDIT` of 0 on channel 0 is the host's heartbeat.

Whatever does not fit raises `WireError`, and the stream is over: there is no resynchronising with a liar.
"""

import json
import struct
from collections import deque
from typing import Any, NamedTuple, Union

VERSION = 1
MAX_PAYLOAD = 1 << 20
WINDOW = 1 << 20

HELLO, OPEN, DATA, END, CREDIT, CLOSE, RESET = range(1, 8)

_HEADER = struct.Struct(">BII")
_CREDIT = struct.Struct(">I")
_EMPTY = (END, RESET)

Json = Any
Chunk = Union[bytes, bytearray, memoryview]


class WireError(Exception):
    """The other side sent something that is not our protocol."""


class Frame(NamedTuple):
    """One decoded frame."""

    kind: int
    channel: int
    payload: "bytes | bytearray"


def frame(kind: int, channel: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return _HEADER.pack(kind, channel, len(payload)) + payload


def data_frame(channel: int, stream: int, chunk: Chunk) -> bytes:
    """A `DATA` frame; `chunk` may hold MAX_PAYLOAD - 1 bytes."""
    return b"".join((data_head(channel, stream, len(chunk)), chunk))


def data_head(channel: int, stream: int, count: int) -> bytes:
    """What stands before `count` bytes of data, for who sends both without joining them."""
    return _HEADER.pack(DATA, channel, count + 1) + bytes((stream,))


def data_of(payload: "bytes | bytearray") -> Chunk:
    """The bytes of a `DATA` frame without its stream; long ones are not copied."""
    return payload[1:] if len(payload) < 4096 else memoryview(payload)[1:]


def control_frame(kind: int, channel: int, body: dict[str, Any]) -> bytes:
    """A frame with a JSON object (`HELLO`, `OPEN`, `CLOSE`). Lone surrogates (undecodable file names) survive as escapes."""
    return frame(kind, channel, json.dumps(body).encode("ascii"))


def credit_frame(channel: int, count: int) -> bytes:
    """Permission to send `count` more bytes of data on `channel`."""
    return frame(CREDIT, channel, _CREDIT.pack(count))


def credit_of(payload: "bytes | bytearray") -> int:
    """The inverse of `credit_frame`. Raises WireError."""
    if len(payload) != _CREDIT.size:
        raise WireError(f"a credit frame of {len(payload)} bytes")
    return int(_CREDIT.unpack(payload)[0])


def object_of(payload: "bytes | bytearray") -> dict[str, Any]:
    """The JSON object of a control frame. Raises WireError for anything else, however deep or broken."""
    try:
        value = json.loads(payload.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise WireError(f"a control frame that is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WireError("a control frame that is not an object")
    return value


class Decoder:
    """Bytes in, whole frames out; keeps at most one unfinished frame, in memory of its own."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._kind = self._channel = self._filled = 0
        self._body = bytearray()

    def __len__(self) -> int:
        """Bytes kept for an unfinished frame."""
        return len(self._head) + len(self._body)

    def feed(self, chunk: Chunk) -> list[Frame]:
        """All frames completed by `chunk`. Raises WireError; the decoder is then of no further use."""
        frames: list[Frame] = []
        with memoryview(chunk) as view:
            at, size = 0, len(view)
            while at < size:
                if not self._body:
                    head = view[at : at + _HEADER.size - len(self._head)]
                    at += len(head)
                    if self._head or len(head) < _HEADER.size:
                        self._head += head
                        if len(self._head) < _HEADER.size:
                            break
                    kind, channel, length = _HEADER.unpack(self._head or head)
                    self._head.clear()
                    _check(kind, length)
                    if at + length <= size:  # most frames are short and whole
                        frames.append(Frame(kind, channel, bytes(view[at : at + length])))
                        at += length
                        continue
                    self._kind, self._channel, self._filled = kind, channel, 0
                    self._body = bytearray(length)
                end = min(len(self._body), self._filled + size - at)
                self._body[self._filled : end] = view[at : at + end - self._filled]
                at += end - self._filled
                self._filled = end
                if end == len(self._body):
                    frames.append(Frame(self._kind, self._channel, self._body))
                    self._body = bytearray()
        return frames


def _check(kind: int, length: int) -> None:
    if not HELLO <= kind <= RESET:
        raise WireError(f"unknown frame kind {kind}")
    if length > MAX_PAYLOAD or (length and kind in _EMPTY):
        raise WireError(f"a frame of kind {kind} with {length} bytes")
    if kind == DATA and length < 1:
        raise WireError("a data frame without a stream")


class Records:
    """Records inside a channel's byte stream: 4 bytes length and JSON, or counted raw bytes, as the reader asks.

    A pull parser over pushed bytes: `feed`, then `record()` or `raw(n)` until they return None or nothing for "not yet". Long
    pieces are handed on as they came; short ones are put together, else a liar's single bytes would fill our memory.
    """

    MAX_RECORD = 8 << 20
    SHORT = 4096

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self._size = 0

    def __len__(self) -> int:
        """Bytes that nobody has taken yet."""
        return self._size

    def feed(self, chunk: Chunk) -> None:
        """More bytes of the stream; the caller does not change them any more."""
        self._size += len(chunk)
        if len(chunk) >= self.SHORT:
            self._chunks.append(chunk)
        elif self._chunks and isinstance(self._chunks[-1], bytearray):
            self._chunks[-1] += chunk
        else:
            self._chunks.append(bytearray(chunk))

    def record(self) -> Json:
        """The next JSON value, or None when it is not complete (records are never null). Raises WireError."""
        if self._size < _CREDIT.size:
            return None
        length = _CREDIT.unpack_from(self._first(_CREDIT.size))[0]
        if length > self.MAX_RECORD:
            raise WireError(f"a record of {length} bytes")
        end = _CREDIT.size + length
        if self._size < end:
            return None
        body = bytes(self._first(end)[_CREDIT.size : end])
        self._drop(end)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise WireError(f"a record that is not JSON: {error}") from None
        if value is None:
            raise WireError("an empty record")
        return value

    def raw(self, limit: int) -> Chunk:
        """At most `limit` bytes of what is there; empty for "not yet"."""
        if not self._size:
            return b""
        first = self._chunks[0]
        if len(first) > limit:
            first = memoryview(first)[:limit]
        self._drop(len(first))
        return first

    def _first(self, count: int) -> memoryview:
        """The first chunk, which holds so many bytes at least."""
        if len(self._chunks[0]) < count:
            pieces = [self._chunks.popleft()]
            while sum(map(len, pieces)) < count:
                pieces.append(self._chunks.popleft())
            self._chunks.appendleft(b"".join(pieces))
        return memoryview(self._chunks[0])

    def _drop(self, count: int) -> None:
        self._size -= count
        first = self._chunks[0]
        if len(first) == count:
            self._chunks.popleft()
        else:
            self._chunks[0] = memoryview(first)[count:]


def record(value: Json) -> bytes:
    """One record for `Records`."""
    body = json.dumps(value).encode("ascii")
    return _CREDIT.pack(len(body)) + body
