"""The frame codec, one file for both sides (standard library only, Python 3.9 and newer).

A frame is 1 byte kind, 4 bytes channel, 4 bytes length (big-endian) and at most 1 MiB of payload. The first frame each
way is `HELLO`. Channels are opened by the host with ids that only grow; a `DATA` payload begins with one byte that names the
stream (1 or 2). Each side may send `WINDOW` bytes of data on a channel before the other grants more with `CREDIT`, so no
channel can starve another or grow the other side's memory. `CREDIT` of 0 on channel 0 is the host's heartbeat.

Whatever does not fit raises `WireError`, and the stream is over: there is no resynchronising with a liar.
"""

import json
import struct
from typing import Any, NamedTuple

VERSION = 1
MAX_PAYLOAD = 1 << 20
WINDOW = 1 << 20

HELLO, OPEN, DATA, END, CREDIT, CLOSE, RESET = range(1, 8)

_HEADER = struct.Struct(">BII")
_CREDIT = struct.Struct(">I")
_EMPTY = (END, RESET)

Json = Any


class WireError(Exception):
    """The other side sent something that is not our protocol."""


class Frame(NamedTuple):
    """One decoded frame."""

    kind: int
    channel: int
    payload: bytes


def frame(kind: int, channel: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return _HEADER.pack(kind, channel, len(payload)) + payload


def data_frame(channel: int, stream: int, chunk: "bytes | memoryview") -> bytes:
    """A `DATA` frame; `chunk` may hold MAX_PAYLOAD - 1 bytes."""
    return b"".join((_HEADER.pack(DATA, channel, len(chunk) + 1), bytes((stream,)), chunk))


def control_frame(kind: int, channel: int, body: dict[str, Any]) -> bytes:
    """A frame with a JSON object (`HELLO`, `OPEN`, `CLOSE`). Lone surrogates (undecodable file names) survive as escapes."""
    return frame(kind, channel, json.dumps(body).encode("ascii"))


def credit_frame(channel: int, count: int) -> bytes:
    """Permission to send `count` more bytes of data on `channel`."""
    return frame(CREDIT, channel, _CREDIT.pack(count))


def credit_of(payload: bytes) -> int:
    """The inverse of `credit_frame`. Raises WireError."""
    if len(payload) != _CREDIT.size:
        raise WireError(f"a credit frame of {len(payload)} bytes")
    return int(_CREDIT.unpack(payload)[0])


def object_of(payload: bytes) -> dict[str, Any]:
    """The JSON object of a control frame. Raises WireError for anything else, however deep or broken."""
    try:
        value = json.loads(payload.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise WireError(f"a control frame that is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WireError("a control frame that is not an object")
    return value


class Decoder:
    """Bytes in, whole frames out; keeps at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: "bytes | memoryview") -> list[Frame]:
        """All frames completed by `chunk`. Raises WireError; the decoder is then of no further use."""
        buffer = self._buffer
        if buffer:
            buffer += chunk
        frames: list[Frame] = []
        with memoryview(buffer or chunk) as view:  # most chunks are whole frames: those are never copied into the buffer
            start, size = 0, len(view)
            while size - start >= _HEADER.size:
                kind, channel, length = _HEADER.unpack_from(view, start)
                if not HELLO <= kind <= RESET:
                    raise WireError(f"unknown frame kind {kind}")
                if length > MAX_PAYLOAD or (length and kind in _EMPTY):
                    raise WireError(f"a frame of kind {kind} with {length} bytes")
                if kind == DATA and length < 1:
                    raise WireError("a data frame without a stream")
                begin = start + _HEADER.size
                if begin + length > size:
                    break
                start = begin + length
                frames.append(Frame(kind, channel, bytes(view[begin:start])))
            if not buffer:
                buffer += view[start:]
                return frames
        del buffer[:start]
        return frames


class Records:
    """Records inside a channel's byte stream: 4 bytes length and JSON, or counted raw bytes, as the reader asks.

    A pull parser over pushed bytes: `feed`, then `record()` or `raw(n)` until they return None for "not yet".
    """

    MAX_RECORD = 8 << 20

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Bytes that nobody has taken yet."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> None:
        """More bytes of the stream."""
        self._buffer += chunk

    def record(self) -> Json:
        """The next JSON value, or None when it is not complete (records are never null). Raises WireError."""
        if len(self._buffer) < _CREDIT.size:
            return None
        length = _CREDIT.unpack_from(self._buffer)[0]
        if length > self.MAX_RECORD:
            raise WireError(f"a record of {length} bytes")
        end = _CREDIT.size + length
        if len(self._buffer) < end:
            return None
        try:
            value = json.loads(bytes(self._buffer[_CREDIT.size : end]))
        except (ValueError, RecursionError) as error:
            raise WireError(f"a record that is not JSON: {error}") from None
        del self._buffer[:end]
        if value is None:
            raise WireError("an empty record")
        return value

    def raw(self, limit: int) -> bytes:
        """At most `limit` bytes of what is there; empty for "not yet"."""
        chunk = bytes(self._buffer[:limit])
        del self._buffer[: len(chunk)]
        return chunk


def record(value: Json) -> bytes:
    """One record for `Records`."""
    body = json.dumps(value).encode("ascii")
    return _CREDIT.pack(len(body)) + body
