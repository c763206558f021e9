"""The codec: any cut of the stream gives the same frames, and any garbage gives WireError and nothing else."""

from __future__ import annotations

import json
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import wire
from sandbox.engines.docker_pieces import Pieces
from sandbox.wire import CLOSE, CREDIT, DATA, END, HELLO, MAX_PAYLOAD, OPEN, RESET, Decoder, Frame, Records, WireError

CHANNEL = st.integers(0, 2**32 - 1)
FRAMES = st.lists(
    st.one_of(
        st.builds(lambda c, s, d: Frame(DATA, c, bytes((s,)) + d), CHANNEL, st.sampled_from([1, 2]), st.binary(max_size=50)),
        st.builds(lambda k, c: Frame(k, c, b""), st.sampled_from([END, RESET]), CHANNEL),
        st.builds(Frame, st.sampled_from([HELLO, OPEN, CREDIT, CLOSE]), CHANNEL, st.binary(max_size=50)),
    ),
    max_size=12,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters() | st.characters(categories=("Cs",)), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """A stream in pieces."""
    at = sorted({0, len(stream), *(p % (len(stream) + 1) for p in places)})
    return [stream[a:b] for a, b in pairwise(at)]


@given(FRAMES, st.lists(st.integers(0, 10_000), max_size=30))
def test_frames_do_not_depend_on_how_they_arrive(frames: list[Frame], places: list[int]) -> None:
    """One byte at a time or all at once."""
    decoder, found = Decoder(), []
    for piece in cut(b"".join(wire.frame(*f) for f in frames), places):
        found += decoder.feed(piece)
    assert found == frames
    assert len(decoder) == 0


@given(st.lists(st.binary(max_size=60), max_size=10), FRAMES)
def test_garbage_is_a_typed_error_and_never_kept(chunks: list[bytes], frames: list[Frame]) -> None:
    """Whatever arrives, before, between or after good frames: frames, nothing yet, or WireError; the buffer stays bounded."""
    decoder = Decoder()
    try:
        for chunk in [b"".join(wire.frame(*f) for f in frames), *chunks]:
            for frame in decoder.feed(chunk):
                assert HELLO <= frame.kind <= RESET
                assert len(frame.payload) <= MAX_PAYLOAD
    except WireError:
        return
    assert len(decoder) <= MAX_PAYLOAD + 9


@given(st.binary(max_size=200))
def test_hostile_control_payload_is_a_typed_error(payload: bytes) -> None:
    """An object or WireError."""
    for read in (wire.object_of, wire.credit_of):
        try:
            read(payload)
        except WireError:
            continue


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_control_body_survives(body: dict) -> None:
    """Lone surrogates of undecodable names included."""
    (frame,) = Decoder().feed(wire.control_frame(CLOSE, 7, body))
    assert wire.object_of(frame.payload) == body


@given(st.integers(0, 2**32 - 1), CHANNEL)
def test_credit_survives(count: int, channel: int) -> None:
    """The whole range."""
    (frame,) = Decoder().feed(wire.credit_frame(channel, count))
    assert (frame.kind, frame.channel, wire.credit_of(frame.payload)) == (CREDIT, channel, count)


@given(
    st.lists(JSON.filter(lambda v: v is not None) | st.binary(min_size=1, max_size=40), max_size=8),
    st.lists(st.integers(0, 5000), max_size=20),
)
def test_records_and_raw_bytes_do_not_run_into_each_other(items: list, places: list[int]) -> None:
    """JSON and counted bytes in one stream come out in order, however it is cut."""
    stream = b"".join(i if isinstance(i, bytes) else wire.record(i) for i in items)
    records, pieces = Records(), cut(stream, places)
    for item in items:
        if isinstance(item, bytes):
            found = b""
            while len(found) < len(item):
                chunk = records.raw(len(item) - len(found))
                found += chunk
                if not chunk:
                    records.feed(pieces.pop(0))
            assert found == item
        else:
            while (value := records.record()) is None:
                records.feed(pieces.pop(0))
            assert value == item
    assert len(records) == 0 or pieces


@given(st.binary(max_size=100))
def test_hostile_record_is_a_typed_error(stream: bytes) -> None:
    """A value, not yet, or WireError."""
    records = Records()
    records.feed(stream)
    try:
        while records.record() is not None:
            pass
    except WireError:
        return


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 100_000, b"9" * 10_000, b"null", b"\xff\xfe", b'"\\ud800"', b""])
def test_deep_or_absurd_json_is_a_typed_error(body: bytes) -> None:
    """No RecursionError, no ValueError, no UnicodeDecodeError."""
    with pytest.raises(WireError):
        wire.object_of(body)
    records = Records()
    records.feed(len(body).to_bytes(4, "big") + body)
    if body != b'"\\ud800"':
        with pytest.raises(WireError):
            records.record()


@given(JSON.filter(lambda v: not isinstance(v, dict)))
def test_control_payload_that_is_no_object_is_refused(value: object) -> None:
    """Lists, numbers and null are not requests."""
    with pytest.raises(WireError):
        wire.object_of(json.dumps(value).encode())


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=12), st.lists(st.integers(0, 1000), max_size=30)
)
def test_what_the_guest_says_does_not_depend_on_how_its_engine_cuts_it(said: list[tuple[int, bytes]], places: list[int]) -> None:
    """Pieces of any length, arriving in any portions: stdout in order, the rest apart."""
    pieces, found = Pieces(), bytearray()

    def take(chunk: bytes | memoryview) -> None:
        found.extend(chunk)

    for portion in cut(b"".join(struct.pack(">BxxxL", source, len(words)) + words for source, words in said), places):
        pieces.feed(memoryview(portion), take)
    assert found == b"".join(words for source, words in said if source == 1)
    assert pieces.words == b"".join(words for source, words in said if source == 2)
