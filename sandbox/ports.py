"""A port inside a sandbox that is served from the host: the one way for programs inside to talk to somebody outside.

It is no network: each connection is a pair of byte streams in the sandbox's own framed stream, to one handler on the host, and
leads nowhere else. The host asks for connections one by one, so that there are never more than it wants; what is
not read is held back by credit, in the program inside at last. Whoever runs inside can connect and say anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream

from sandbox.channels import Channel, Mux
from sandbox.errors import GuestError, SandboxLost

MAX_CONNECTIONS = 32
CLOSE_S = 10.0
CONNECTED = b"+"
SAID_ALL = b"."

GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, SandboxLost)
"""How a handler learns that its connection is over; none of these is an error of the handler."""


class Connection(ByteStream):
    """One connection from inside, as the host sees it. For one reader and one writer at a time."""

    def __init__(self, mux: Mux, channel: Channel) -> None:
        self._mux = mux
        self._channel = channel
        self._rest = b""
        self._said_all = False
        self._closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """At least one byte. Raises anyio.EndOfStream when the other side will send no more, or has gone."""
        if self._closed:
            raise anyio.ClosedResourceError
        while not self._rest:
            if self._said_all:
                raise anyio.EndOfStream
            stream, chunk = await self._channel.receive()
            if stream == 1:
                self._rest = chunk
            elif chunk == SAID_ALL:
                self._said_all = True
            else:
                raise self._mux.broken("an unknown word about a connection")
        chunk, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return chunk

    async def send(self, item: bytes) -> None:
        """All of it, waiting while the other side is slow. Raises anyio.BrokenResourceError when it has gone, SandboxLost."""
        if self._closed:
            raise anyio.ClosedResourceError
        await self._channel.send(item)
        if self._channel.verdict is not None:
            raise anyio.BrokenResourceError

    async def send_eof(self) -> None:
        """Nothing more will be sent; receiving goes on."""
        await self._channel.end()

    async def aclose(self) -> None:
        """Hang up, once the other side has taken everything that was sent; it need not hang up itself. Bounded."""
        self._closed = True
        try:
            with contextlib.suppress(SandboxLost), anyio.move_on_after(CLOSE_S):
                await self._channel.end()
                await self._channel.taken()
        finally:
            await _give_up(self._channel)


Handler = Callable[[Connection], Awaitable[None]]


@asynccontextmanager
async def serve(mux: Mux, handler: Handler, *, port: int, max_connections: int) -> AsyncGenerator[int]:
    """The port's number. Leaving closes the port and cancels every handler. Raises GuestError: the port is taken."""
    listener = await mux.open("listen", port=port)
    try:
        match await listener.record():
            case {"port": int(number)}:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_accept_forever, mux, listener, handler, max_connections)
                    yield number
                    tasks.cancel_scope.cancel()
            case _:
                raise mux.broken("a port without a number")
    finally:
        await _give_up(listener)


async def _accept_forever(mux: Mux, listener: Channel, handler: Handler, max_connections: int) -> None:
    room = anyio.Semaphore(max_connections)
    async with anyio.create_task_group() as tasks:
        while True:
            await room.acquire()
            try:
                channel = await _next(mux, listener)
            except (SandboxLost, GuestError):
                return  # whoever works in the sandbox hears of it there
            tasks.start_soon(_handle, mux, channel, handler, room)


async def _next(mux: Mux, listener: Channel) -> Channel:
    """The channel of the next connection."""
    channel = await mux.open("accept", port=listener.number)
    try:
        word = await channel.receive()
    except anyio.EndOfStream:
        channel.check()
        raise GuestError("the port was closed") from None
    except BaseException:
        await _give_up(channel)
        raise
    if word != (2, CONNECTED):
        raise mux.broken("a connection that does not begin with its beginning")
    return channel


async def _handle(mux: Mux, channel: Channel, handler: Handler, room: anyio.Semaphore) -> None:
    try:
        connection = Connection(mux, channel)
        try:
            with contextlib.suppress(*GONE):
                await handler(connection)
        finally:
            await connection.aclose()
    finally:
        room.release()


async def _give_up(channel: Channel) -> None:
    """End it, and wait until the guest has; nobody can cancel that, and it is bounded."""
    with anyio.move_on_after(CLOSE_S, shield=True), contextlib.suppress(SandboxLost, anyio.EndOfStream):
        await channel.reset()
        while channel.verdict is None:
            await channel.receive()
