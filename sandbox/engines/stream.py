"""A connected socket without any layer in between: what most of the time of a short command was spent in.

Reading is one callback of the event loop, writing tries the socket first and waits only when that is full. The streams of
anyio do the same with four turns of the loop for each exchange, a tenth of a whole command. So engines on sockets need the
asyncio backend; what stands above does not.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from sandbox.errors import SandboxLost

READ_BYTES = 256 * 1024


class RawStream:
    """One socket, for one reader and one writer at a time. It is closed by `close` alone."""

    def __init__(self, raw: socket.socket) -> None:
        raw.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        self.raw = raw
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._ended: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._closed = False

    def offer(self, data: bytes | memoryview) -> int:
        """How many of these bytes the socket took at once. Raises SandboxLost."""
        if self._closed:
            raise SandboxLost("the container's stream is closed", op="send")
        try:
            return self.raw.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise SandboxLost("the container's stream is closed", op="send") from error

    async def send(self, data: bytes | memoryview) -> None:
        """All of it, waiting while the other side is slow. Raises SandboxLost."""
        view = memoryview(data)
        while view := view[self.offer(view) :]:
            self._room = self._loop.create_future()
            self._loop.add_writer(self.raw, _settle, self._room)
            try:
                await self._room
            finally:
                self._room = None
                if not self._closed:
                    self._loop.remove_writer(self.raw)

    async def pump(self, take: Callable[[memoryview], None]) -> None:
        """Hand on whatever arrives, until the end. The view is good during the call only; what `take` raises ends it."""
        self._ended = self._loop.create_future()
        if self._closed:
            return
        self._loop.add_reader(self.raw, self._arrived, take, self._ended)
        try:
            await self._ended
        finally:
            if not self._closed:
                self._loop.remove_reader(self.raw)

    def _arrived(self, take: Callable[[memoryview], None], ended: asyncio.Future[None]) -> None:
        if ended.done():
            return
        try:
            count = self.raw.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            ended.set_result(None)
            return
        try:
            take(self._buffer[:count])
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits for the end
            ended.set_exception(error)

    def hang_up(self) -> None:
        """The other side reads to the end, and nothing more comes from it."""
        try:
            self.raw.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it was faster

    def close(self) -> None:
        """Give the descriptor back; whoever waits for it goes on."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self.raw)
        self._loop.remove_writer(self.raw)
        for waiting in (self._ended, self._room):
            if waiting is not None:
                _settle(waiting)
        self.raw.close()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
