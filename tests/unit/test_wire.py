"""The host's end against a guest that lies: every lie is a typed error, nothing hangs, nothing grows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from sandbox import SnapshotError, Store, transfer, wire
from sandbox.channels import Mux
from sandbox.errors import EngineDied, EngineError, GuestError, SandboxLost, StartFailed, WireError
from sandbox.wire import CLOSE, CREDIT, DATA, END, HELLO, MAX_PAYLOAD, OPEN, RESET, WINDOW, Decoder

HELLO_OK = wire.control_frame(HELLO, 0, {"v": wire.VERSION})
OK = wire.control_frame(CLOSE, 1, {"reason": "ok"})


class Liar:
    """A link whose other end says what a test wants."""

    container = "liar"

    def __init__(self) -> None:
        self._says, self._hears = anyio.create_memory_object_stream[bytes](10_000)
        self.sent: list[bytes] = []
        self.blocked: anyio.Event | None = None

    def say(self, *chunks: bytes) -> None:
        """Bytes for the host."""
        for chunk in chunks:
            self._says.send_nowait(chunk)

    def hang_up(self) -> None:
        """The stream's end."""
        self._says.close()

    async def send(self, data: bytes) -> None:
        """The host's bytes; waits for ever when `blocked`."""
        self.sent.append(data)
        if data[0] == RESET:  # as a guest does: the operation is over
            self.say(wire.control_frame(CLOSE, int.from_bytes(data[1:5], "big"), {"reason": "killed"}))
        if self.blocked is not None:
            await self.blocked.wait()

    def offer(self, data: bytes) -> int:
        """Takes nothing at once."""
        return 0

    async def pump(self, take: Callable[[bytes], None]) -> None:
        """What was said."""
        async for chunk in self._hears:
            take(chunk)

    def last_words(self) -> str:
        """A word."""
        return "last words"

    async def aclose(self) -> None:
        """Both ends."""
        self._says.close()
        self._hears.close()


@asynccontextmanager
async def talking(link: Liar, *, greet: bool = True, send_s: float = 5.0) -> AsyncIterator[Mux]:
    """A mux that reads from a liar; no test takes longer than the deadline."""
    mux = Mux(link, send_s=send_s)
    try:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mux.read_forever)
                if greet:
                    link.say(HELLO_OK)
                    await mux.greet(0)
                yield mux
                tasks.cancel_scope.cancel()
    finally:
        await link.aclose()


LIES: dict[str, bytes] = {
    "more data than granted": b"".join(wire.data_frame(1, 1, bytes(MAX_PAYLOAD - 1)) for _ in range(2)),
    "an unknown stream": wire.data_frame(1, 3, b"x"),
    "no stream": wire.frame(DATA, 1),
    "a channel never opened": wire.data_frame(2, 1, b"x"),
    "channel zero": wire.data_frame(0, 1, b"x"),
    "a second hello": HELLO_OK,
    "an open": wire.control_frame(OPEN, 1, {"op": "spawn"}),
    "an end": wire.frame(END, 1),
    "a reset": wire.frame(RESET, 1),
    "an unknown kind": bytes((9,)) + bytes(8),
    "kind zero": bytes(9),
    "an oversized frame": wire._HEADER.pack(DATA, 1, MAX_PAYLOAD + 1),
    "huge credit": wire.credit_frame(1, 2**32 - 1),
    "one byte of credit too much": wire.credit_frame(1, 1),
    "short credit": wire.frame(CREDIT, 1, b"x"),
    "deep JSON": wire.frame(CLOSE, 1, b"[" * 500_000),
    "no JSON": wire.frame(CLOSE, 1, b"\xff"),
    "a list for a verdict": wire.frame(CLOSE, 1, b"[]"),
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_lie_ends_the_stream_for_everybody_with_a_reason(lie: bytes) -> None:
    """The waiting operation is lost, later ones are refused, both say why; nothing hangs."""
    link = Liar()
    async with talking(link) as mux:
        channel = await mux.open("read", path="x", max_bytes=1)
        link.say(lie)
        with pytest.raises(SandboxLost, match="broke the protocol"):
            await channel.finish()
        with pytest.raises(SandboxLost, match="broke the protocol"):
            await mux.open("read")


async def test_flood_of_empty_data_does_not_grow_the_host() -> None:
    """Frames that cost no credit are no way around it."""
    link = Liar()
    async with talking(link) as mux:
        channel = await mux.open("spawn")
        link.say(wire.data_frame(1, 1, b"") * 100_000)
        link.say(OK)
        await anyio.wait_all_tasks_blocked()
        assert channel.verdict is not None
        assert len(channel._inbox) < 1000


@pytest.mark.parametrize(
    "first",
    [
        b"",
        wire.control_frame(HELLO, 0, {"v": 99}),
        wire.control_frame(HELLO, 0, {}),
        wire.data_frame(1, 1, b"x"),
        b"Traceback",
        b"[" * 5000,
    ],
    ids=["nothing", "other-version", "no-version", "data-first", "text", "brackets"],
)
async def test_guest_that_does_not_greet_is_a_failed_start(first: bytes) -> None:
    """StartFailed with the container's last words, at once."""
    link = Liar()
    async with talking(link, greet=False) as mux:
        if first:
            link.say(first)
        link.hang_up()
        with pytest.raises(StartFailed, match="last words"):
            await mux.greet(0)


@pytest.mark.parametrize(
    "verdict",
    [
        {},
        {"reason": None},
        {"reason": ["ok"]},
        {"reason": "error", "message": {"a": 1}, "path": [1]},
        {"reason": "refused", "message": None},
    ],
)
async def test_odd_verdict_is_a_guest_error(verdict: dict[str, Any]) -> None:
    """Anything but a plain ok is not ok."""
    link = Liar()
    async with talking(link) as mux:
        channel = await mux.open("list", path="x")
        link.say(wire.control_frame(CLOSE, 1, verdict))
        with pytest.raises(GuestError):
            await channel.finish()


async def test_late_frames_of_an_ended_channel_are_not_an_error() -> None:
    """Its caller has gone; the stream goes on."""
    link = Liar()
    async with talking(link) as mux:
        first = await mux.open("list")
        link.say(OK, wire.data_frame(1, 1, b"late"), wire.credit_frame(1, 5), OK)
        await first.finish()
        second = await mux.open("list")
        link.say(wire.control_frame(CLOSE, 2, {"reason": "ok"}))
        await second.finish()


async def test_output_before_the_verdict_is_not_lost() -> None:
    """All data is delivered before the end is."""
    link = Liar()
    async with talking(link) as mux:
        channel = await mux.open("spawn")
        link.say(wire.data_frame(1, 1, b"a") + wire.data_frame(1, 2, b"b") + OK)
        assert [await channel.receive(), await channel.receive()] == [(1, b"a"), (2, b"b")]
        with pytest.raises(anyio.EndOfStream):
            await channel.receive()


async def test_host_does_not_send_more_than_its_credit() -> None:
    """One window, then it waits; each grant lets exactly that much through."""
    link = Liar()
    async with talking(link) as mux:
        channel = await mux.open("spawn")

        def sent() -> int:
            frames = Decoder().feed(b"".join(link.sent))
            return sum(len(f.payload) - 1 for f in frames if f.kind == DATA)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.send, bytes(WINDOW + 1000))
            await anyio.wait_all_tasks_blocked()
            assert sent() == WINDOW
            link.say(wire.credit_frame(1, 400))
            await anyio.wait_all_tasks_blocked()
            assert sent() == WINDOW + 400
            link.say(OK)  # the operation is over: the rest is dropped


async def test_blocked_link_does_not_make_a_caller_uncancellable() -> None:
    """A guest or an engine that stopped reading must not take the caller along: the wait ends within a bound."""
    link = Liar()
    async with talking(link, send_s=0.1) as mux:
        channel = await mux.open("spawn")
        link.blocked = anyio.Event()
        with pytest.raises(SandboxLost, match="took nothing"):
            await channel.send(b"x")
        assert channel.verdict is not None


async def engine_that(answer: str) -> bool:
    """lives, died, or hangs."""
    if answer == "hangs":
        await anyio.sleep_forever()
    return answer == "lives"


@pytest.mark.parametrize(("answer", "reason"), [("lives", "lost"), ("died", "engine"), ("hangs", "engine")])
async def test_dead_engine_is_not_mistaken_for_a_dead_container(answer: str, reason: str) -> None:
    """When the link ends, its engine is asked once: no answer in time makes the loss the engine's, for all that run or come."""
    link = Liar()
    asked = []

    async def alive() -> bool:
        asked.append(answer)
        return await engine_that(answer)

    mux = Mux(link, alive=alive, alive_s=0.2)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mux.read_forever)
            link.say(HELLO_OK)
            await mux.greet(0)
            running, waiting = await mux.open("spawn"), await mux.open("read")
            link.hang_up()
            with pytest.raises(SandboxLost) as caught:
                await waiting.finish()
            assert (running.verdict or {})["reason"] == caught.value.cause == reason
            with pytest.raises(SandboxLost) as later:
                await mux.open("spawn")
            tasks.cancel_scope.cancel()
    assert isinstance(later.value, EngineDied) == isinstance(later.value, EngineError) == (reason == "engine")
    assert asked == [answer]
    await link.aclose()


@pytest.mark.parametrize(("answer", "lost"), [("lives", False), ("died", True), ("hangs", True)])
async def test_a_hung_engine_is_waited_for_without_end(answer: str, lost: bool) -> None:
    """Nothing from the guest, and no answer of its engine, for `silence_s`: over, as the engine's; one that answers is idle."""
    link = Liar()
    asked: list[int] = []

    async def alive() -> bool:
        asked.append(1)
        return await engine_that(answer)

    mux = Mux(link, alive=alive, alive_s=0.05)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mux.read_forever)
        link.say(HELLO_OK)
        await mux.greet(0)
        running = await mux.open("spawn")
        with anyio.move_on_after(0.5):
            await mux.heartbeat(0.1)
        assert (running.verdict or {}).get("reason") == ("engine" if lost else None)
        assert len(asked) > 2
        tasks.cancel_scope.cancel()
    await link.aclose()


def rows(*values: object) -> bytes:
    """Records as data of the first channel."""
    return b"".join(wire.data_frame(1, 1, wire.record(v)) for v in values)


BAD_ROWS = [
    5,
    True,
    "text",
    {"a": 1},
    [[0, "../x", "file", 0, 0, "", 0]],
    [[0, "/abs", "file", 0, 0, "", 0]],
    [[0, "a//b", "file", 0, 0, "", 0]],
    [[0, "a\0", "file", 0, 0, "", 0]],
    [[0, "\ud800", "file", 0, 0, "", 0]],
    [[0, "x" * 5000, "file", 0, 0, "", 0]],
    [[0, "../git folder/x", "file", 0, 0, "", 0]],
    [[0, ".git/../../x", "file", 0, 0, "", 0]],
    [[1, "x", "file", 0, 0, "", 0]],
    [[-1, "x", "file", 0, 0, "", 0]],
    [[0, "x", "device", 0, 0, "", 0]],
    [[0, "x", "file", 0, -1, "", 0]],
    [[0, "x", "link", 0, 0, "\ud800", 0]],
    [[0, "x", "link", 0, 0, "a\0b", 0]],
    [[0, "x", "link", 0, 0, "t" * 5000, 0]],
    [[0, "x"]],
    [None],
    [[0, "x", "file", 0, 0, "", 0], [0, "x", "file", 0, 1, "", 0]],
    [[0, "x/y/z", "file", 0, 0, "", 0], [0, "x", "link", 0, 0, "t", 0]],
    [[0, "x", "dir", 0, 0, "", 0], [0, "", "file", 0, 0, "", 0]],
]


@pytest.mark.parametrize("row", BAD_ROWS, ids=[str(r)[:30].encode("ascii", "replace").decode() for r in BAD_ROWS])
@pytest.mark.probe("82")
async def test_hostile_row_is_not_taken(row: object, tmp_path) -> None:
    """Snapshots and listings refuse it with SnapshotError, and end the operation at the other side."""
    for listing in (False, True):
        link = Liar()
        async with talking(link) as mux:
            link.say(rows(row) + rows([]))
            take = transfer.snapshot(mux, ["/workspace"], Store(tmp_path / "store"), None)
            if listing:
                take.close()
                take = transfer.listing(mux, "/workspace")
            with pytest.raises(SnapshotError):
                await take
        assert any(f.kind == RESET for f in Decoder().feed(b"".join(link.sent)))


FILE_ROW = [0, "x", "file", 0o644, 3, "", 0]
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


BAD_EXTENTS: list[object] = [
    7,
    [7],
    [[0]],
    [[0, True]],
    [[0, 0], [0, 3]],
    [[1, 2], [0, 1]],
    [[0, 2], [1, 2]],
    [[0, 4]],
    [[-1, 3]],
    [[2**70, 1]],
    [[0, 1], [2, 1]],
    [],
]
"""Not in order, not in the file, or not the content."""


@pytest.mark.parametrize(
    "rest",
    [
        rows([[0, "zz"]], []),
        rows([[7, ABC]], []),
        rows(7),
        rows([5]),
        rows([[0, ABC]], [], {"size": 4}) + wire.data_frame(1, 1, b"abcd"),
        rows([[0, ABC]], [], {"size": 3}) + wire.data_frame(1, 1, b"abd"),
        rows([[0, ABC]], [], "x"),
        rows([[0, ABC]], [], {"size": 3}) + wire.data_frame(1, 1, b"ab"),
        *(rows([[0, ABC]], [], {"size": 3, "data": data}) + wire.data_frame(1, 1, b"abc") for data in BAD_EXTENTS),
    ],
    ids=["no-hash", "unasked", "number", "no-pair", "other-size", "other-content", "no-size", "cut", *map(repr, BAD_EXTENTS)],
)
@pytest.mark.probe("82")
async def test_hostile_content_is_not_stored(rest: bytes, tmp_path) -> None:
    """A file that is not what was announced is a typed error, and nothing is stored under the announced name."""
    link, store = Liar(), Store(tmp_path / "store")
    async with talking(link) as mux:
        link.say(rows([FILE_ROW], []) + rest + wire.control_frame(CLOSE, 1, {"reason": "ok"}))
        with pytest.raises((SnapshotError, WireError)):
            await transfer.snapshot(mux, ["/workspace"], store, None)
    assert not store.has(ABC)
    assert not list(store.folder.rglob(".*"))


async def test_guest_that_sends_an_endless_file_does_not_fill_the_host() -> None:
    """`read` stops at what was asked for, whatever the guest says."""
    from sandbox.box import Sandbox

    link = Liar()
    async with talking(link) as mux:
        box = Sandbox.__new__(Sandbox)
        box._mux = mux
        link.say(wire.data_frame(1, 1, bytes(2000)))
        with pytest.raises(WireError, match="more than 1000 bytes"):
            await box.read("/workspace/x", max_bytes=1000)
