"""HTTP/1.1 for programs in a container: requests are read within limits, and answered one after the other on each connection.

h11 parses, as whoever connects may say anything; no server framework stands above it, since there is no network, no route table
and no file to serve. A request that is too large or malformed is answered and its connection closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import anyio
import h11

from sandbox import Connection

BODY_BYTES = 32 * 1024 * 1024
HEAD_BYTES = 64 * 1024
IDLE_S = 600.0
"""A connection that says nothing for so long is closed; programs keep theirs open between calls."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request. Its headers are not handed on: nothing of them may matter."""

    method: str
    path: str
    """Without its query."""
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What it is told; a body may come in pieces."""

    status: int
    body: bytes | AsyncIterator[bytes] = b""
    kind: str = "application/json"


Answering = Callable[[Asked], Awaitable[Answer]]


async def talk(connection: Connection, answering: Answering) -> None:
    """Serve one connection until it ends. Raises what the connection raises at its end, and what `answering` raises."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    while True:
        try:
            asked = await _read(http, connection)
        except h11.RemoteProtocolError as error:
            await _send(http, connection, Answer(status=error.error_status_hint, body=b"{}"))
            return
        if asked is None:
            return
        await _send(http, connection, await answering(asked))
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return
        http.start_next_cycle()


async def _read(http: h11.Connection, connection: Connection) -> Asked | None:
    """The next request; None when there is none. Raises h11.RemoteProtocolError."""
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                await connection.send(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            try:
                with anyio.fail_after(IDLE_S):
                    http.receive_data(await connection.receive())
            except TimeoutError:
                return None
            except anyio.EndOfStream:
                http.receive_data(b"")
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > BODY_BYTES:
                raise h11.RemoteProtocolError("too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            path = request.target.partition(b"?")[0].decode("ascii", "replace")
            return Asked(method=request.method.decode("ascii"), path=path, body=bytes(body))
        else:
            return None


async def _send(http: h11.Connection, connection: Connection, answer: Answer) -> None:
    if http.our_state is not h11.SEND_RESPONSE and http.our_state is not h11.IDLE:
        return
    headers = [("content-type", answer.kind)]
    if isinstance(answer.body, bytes):
        headers.append(("content-length", str(len(answer.body))))
        head = http.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        body = http.send(h11.Data(data=answer.body)) or b""
        await connection.send(head + body + (http.send(h11.EndOfMessage()) or b""))
        return
    await connection.send(http.send(h11.Response(status_code=answer.status, headers=headers)) or b"")
    async with aclosing(answer.body) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            await connection.send(http.send(h11.Data(data=piece)) or b"")
    await connection.send(http.send(h11.EndOfMessage()) or b"")
