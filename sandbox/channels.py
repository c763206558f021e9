"""The host's end of the framed stream: many channels over one link, each with credit both ways.

What arrives may come from a hostile container: more data than was granted, unknown channels, malformed control frames end the
whole stream with a reason. Nothing here grows beyond one window per channel.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from sandbox import wire
from sandbox.engines.base import ALIVE_S, Link
from sandbox.errors import EngineDied, GuestError, SandboxLost, StartFailed, WireError

CHUNK = 64 * 1024
SEND_S = 30.0
"""The guest always reads; a link that takes nothing for so long hangs with its engine."""


class Channel:
    """One operation in flight."""

    def __init__(self, mux: Mux, number: int) -> None:
        self._mux = mux
        self.number = number
        self.verdict: dict[str, Any] | None = None
        """The guest's last word on this operation."""
        self._inbox: deque[tuple[int, wire.Chunk]] = deque()
        self._granted = wire.WINDOW
        self._owed = 0
        self._credit = wire.WINDOW
        self._waiting: list[asyncio.Future[None]] = []
        self.expired = False
        """The caller's patience is over: it receives no more, for whatever is under way."""
        self._records = wire.Records()

    def _notify(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                if not one.done():
                    one.set_result(None)

    async def _changed(self) -> None:
        # An anyio.Event costs a short command a hundredth of its time. One future each: who is cancelled cancels its own.
        one = asyncio.get_running_loop().create_future()
        self._waiting.append(one)
        await one

    # -- from the link ---------------------------------------------------------------------------------------

    def arrived(self, frame: wire.Frame) -> None:
        """Take one frame. Raises WireError when it breaks the rules."""
        match frame.kind:
            case wire.DATA:
                stream, chunk = frame.payload[0], wire.data_of(frame.payload)
                self._granted -= len(chunk)
                if self._granted < 0 or not chunk or stream not in (1, 2):
                    raise wire.WireError("more data than was granted, none at all, or on an unknown stream")
                self._inbox.append((stream, chunk))
            case wire.CREDIT:
                self._credit += wire.credit_of(frame.payload)
                if self._credit > wire.WINDOW:
                    raise wire.WireError("more credit than there is window")
            case wire.CLOSE:
                self.verdict = wire.object_of(frame.payload)
            case kind:
                raise wire.WireError(f"a frame of kind {kind} from the guest")
        self._notify()

    def lost(self, error: SandboxLost) -> None:
        """The link is gone."""
        if self.verdict is None:
            self.verdict = {"reason": error.cause, "message": str(error)}
        self._notify()

    @property
    def behind(self) -> bool:
        """Whether something arrived that nobody received yet: then it is the caller who is waited for."""
        return bool(self._inbox)

    # -- for the caller --------------------------------------------------------------------------------------

    def expire_in(self, seconds: float) -> asyncio.TimerHandle:
        """After that, who receives hears EndOfStream, verdict or not, until it gives up. The caller cancels the timer."""

        def expire() -> None:
            self.expired = True
            self._notify()

        return asyncio.get_running_loop().call_later(seconds, expire)

    async def receive(self) -> tuple[int, bytes]:
        """Stream number and bytes, in order. Raises EndOfStream when all was delivered and the verdict is in."""
        stream, chunk = await self.take()
        return stream, chunk if isinstance(chunk, bytes) else bytes(chunk)

    async def take(self) -> tuple[int, wire.Chunk]:
        """The same without a copy: nobody changes what it gives."""
        while not self._inbox:
            if self.verdict is not None or self.expired:
                raise anyio.EndOfStream
            await self._changed()
        stream, chunk = self._inbox.popleft()
        self._owed += len(chunk)
        if self._owed >= wire.WINDOW // 2 and self.verdict is None:
            owed, self._owed = self._owed, 0
            self._granted += owed
            await self._mux.send(wire.credit_frame(self.number, owed))
        return stream, chunk

    async def send(self, data: wire.Chunk) -> None:
        """Bytes for the operation, waiting for its credit; dropped once it is over. Raises SandboxLost."""
        view = memoryview(data)
        while view and self.verdict is None:
            while self._credit <= 0 and self.verdict is None:
                await self._changed()
            count = min(len(view), self._credit, CHUNK)
            self._credit -= count
            await self._mux.send(wire.data_frame(self.number, 1, view[:count]))
            view = view[count:]

    async def taken(self) -> None:
        """Wait until everything that was sent has been taken, or it is over."""
        while self._credit < wire.WINDOW and self.verdict is None:
            await self._changed()

    async def send_record(self, value: object) -> None:
        """One JSON record."""
        await self.send(wire.record(value))

    async def end(self) -> None:
        """No more bytes for the operation."""
        if self.verdict is None:
            await self._mux.send(wire.frame(wire.END, self.number))

    async def reset(self) -> None:
        """Give up: the guest kills it."""
        if self.verdict is None:
            await self._mux.send(wire.frame(wire.RESET, self.number))

    async def record(self) -> wire.Json:
        """The next JSON record. Raises GuestError when the operation failed, SandboxLost."""
        while True:
            try:
                value = self._records.record()
            except wire.WireError as error:
                raise self._mux.broken(str(error)) from error
            if value is not None:
                return value
            self._records.feed(await self._more())

    async def raw(self, limit: int) -> wire.Chunk:
        """Between 1 and `limit` raw bytes. Raises GuestError, SandboxLost."""
        while True:
            chunk = self._records.raw(limit)
            if chunk:
                return chunk
            self._records.feed(await self._more())

    async def _more(self) -> wire.Chunk:
        try:
            _, chunk = await self.take()
        except anyio.EndOfStream:
            self.check()
            raise self._mux.broken("an operation ended in mid-sentence") from None
        return chunk

    async def finish(self) -> dict[str, Any]:
        """Wait for the verdict of a file operation. Raises GuestError, SandboxLost."""
        try:
            while True:
                await self.take()
        except anyio.EndOfStream:
            return self.check()

    def check(self) -> dict[str, Any]:
        """The verdict, if it is good. Raises GuestError, SandboxLost."""
        verdict = self.verdict or {}
        match verdict.get("reason"):
            case "ok":
                return verdict
            case "lost":
                raise SandboxLost(str(verdict.get("message")))
            case "engine":
                raise EngineDied(str(verdict.get("message")))
            case _:
                place = f" ({verdict['path']})" if verdict.get("path") else ""
                raise GuestError(f"{verdict.get('message', 'the operation was given up')}{place}")


class Mux:
    """All channels of one sandbox."""

    def __init__(
        self,
        link: Link,
        *,
        send_s: float = SEND_S,
        alive: Callable[[], Awaitable[bool]] | None = None,
        alive_s: float = ALIVE_S,
    ) -> None:
        """`alive` asks the link's engine, when the link has ended by itself; no answer within `alive_s` is an answer, too."""
        self._link = link
        self._send_s = send_s
        self._alive = alive
        self._alive_s = alive_s
        self._engine_died = False
        self._leaving = False
        self._chunks = 0
        """How often something arrived."""
        self._over = anyio.Event()
        self._decoder = wire.Decoder()
        self._lock = anyio.Lock()
        self._next = 1
        self._channels: dict[int, Channel] = {}
        self.about: dict[str, Any] = {}
        """The guest's hello."""
        self.lost_because = ""
        self._greeted = anyio.Event()

    @property
    def busy(self) -> bool:
        """Whether who sends now may have to wait for others."""
        return self._lock.locked()

    async def send(self, encoded: bytes) -> None:
        """One frame onto the link, whole. Raises SandboxLost."""
        if self.lost_because:
            raise self._gone()
        try:
            await self._send(encoded)
        except SandboxLost:
            if not self._leaving:  # the reading side is finding out why
                with anyio.move_on_after(self._alive_s + 1):
                    await self._over.wait()
            if self.lost_because:
                raise self._gone() from None
            raise

    async def _send(self, encoded: bytes | memoryview) -> None:
        if not self._lock.locked():
            taken = self._link.offer(encoded)
            if taken == len(encoded):
                return
            self._lock.acquire_nowait()
            encoded = memoryview(encoded)[taken:]
        else:
            await self._lock.acquire()
        try:
            # Half a frame would end the stream, so a cancelled caller stays until it is out; but not for ever.
            with anyio.move_on_after(self._send_s, shield=True) as patience:
                await self._link.send(encoded)
        finally:
            self._lock.release()
        if patience.cancelled_caught:
            await self.give_up(f"the container took nothing for {self._send_s:.0f} s")
            raise self._gone()

    async def greet(self, silence_s: float, *, image: str = "") -> None:
        """Exchange hello. Raises StartFailed with the container's last words."""
        with contextlib.suppress(SandboxLost):  # it ended already: what it said is on its way
            await self.send(wire.control_frame(wire.HELLO, 0, {"v": wire.VERSION, "silence_s": silence_s}))
        await self._greeted.wait()
        if self.lost_because:
            words = self._link.last_words()
            hint = f": {words[-600:]}" if words else ""
            which = f"of {image} " if image else ""
            told = f"the container {which}ended before its guest answered (python3 3.9 or newer is needed){hint}"
            raise StartFailed(told, op="start")

    async def open(self, op: str, **request: object) -> Channel:
        """Begin an operation. Raises SandboxLost."""
        if self.lost_because:
            raise self._gone()
        channel = Channel(self, self._next)
        self._next += 1
        self._channels[channel.number] = channel
        await self.send(wire.control_frame(wire.OPEN, channel.number, {"op": op, **request}))
        return channel

    async def read_forever(self) -> None:
        """Deliver frames until the link ends or the guest breaks the rules."""
        why = "the container is gone"
        try:
            await self._link.pump(self._arrived)
        except wire.WireError as error:
            why = f"the container broke the protocol: {error}"
        else:
            await self._ask()
        words = self._link.last_words()
        self._end(f"{why} ({words[-300:]})" if words else why)

    def _arrived(self, chunk: bytes | memoryview) -> None:
        self._chunks += 1
        for frame in self._decoder.feed(chunk):
            self._deliver(frame)

    def _deliver(self, frame: wire.Frame) -> None:
        if frame.kind == wire.HELLO:
            if self._greeted.is_set():
                raise wire.WireError("a second hello")
            self.about = wire.object_of(frame.payload)
            if self.about.get("v") != wire.VERSION:
                raise wire.WireError(f"a guest of version {self.about.get('v')!r}")
            self._greeted.set()
            return
        if not self._greeted.is_set():
            raise wire.WireError("the first frame is not hello")
        channel = self._channels.get(frame.channel)
        if channel is None:
            if not 0 < frame.channel < self._next:
                raise wire.WireError(f"a frame for channel {frame.channel}, which was never opened")
            return  # its caller has gone
        channel.arrived(frame)
        if channel.verdict is not None:
            del self._channels[frame.channel]

    async def give_up(self, why: str) -> None:
        """The guest no longer answers: it is over for everybody. Bounded by `alive_s`, in which nobody can cancel it."""
        with anyio.CancelScope(shield=True):
            await self._ask()
        self._end(why)

    async def let_go(self, patience_s: float) -> float | None:
        """The end of this process, as far as the guest can tell; see `Link.let_go`."""
        self.leave()
        return await self._link.let_go(patience_s)

    def leave(self) -> None:
        """We close the link ourselves: nobody needs to be asked why it ends."""
        self._leaving = True

    async def _ask(self) -> None:
        if not (self._leaving or self.lost_because):
            self._engine_died = not await self._answers(self._alive_s)

    async def _answers(self, within_s: float) -> bool:
        with anyio.move_on_after(within_s):
            return self._alive is None or await self._alive()
        return False

    def _gone(self) -> SandboxLost:
        return EngineDied(self.lost_because) if self._engine_died else SandboxLost(self.lost_because)

    def _end(self, why: str) -> None:
        if self._engine_died:
            why = f"the container engine no longer answers, look at its log or restart it ({why})"
        self.lost_because = self.lost_because or why
        self._greeted.set()
        self._over.set()
        for channel in list(self._channels.values()):
            channel.lost(self._gone())
        self._channels.clear()

    def broken(self, why: str) -> WireError:
        """The guest lied inside a channel: an error to raise; the stream is over for everybody."""
        self._end(f"the container broke the protocol: {why}")
        return WireError(self.lost_because)

    async def heartbeat(self, silence_s: float) -> None:
        """Tell the guest that its host lives, and find out whether that is still heard.

        An engine that hangs closes no stream. Its guest ends after `silence_s` without a word of ours, so an engine that has for
        as long brought nothing from it, and does not answer either, has lost it.
        """
        every_s = silence_s / 4
        heard = anyio.current_time()
        while not self.lost_because:
            before = self._chunks
            await anyio.sleep(every_s)
            try:
                await self.send(wire.credit_frame(0, 0))
            except SandboxLost:
                return
            if self._chunks != before or await self._answers(min(self._alive_s, every_s)):
                heard = anyio.current_time()
            elif anyio.current_time() - heard > silence_s:
                await self.give_up(f"nothing was heard of it for {silence_s:.0f} s")
