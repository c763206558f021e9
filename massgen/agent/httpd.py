"""HTTP/1.1 for programs in a container: requests are read within limits, and answered one after the other on each connection.

h11 parses, as whoever connects may say anything; no server framework stands above it, since there is no network, no route table
and no file to serve. A request that is too large or malformed is answered and its connection closed. What all connections of a
port may take together has limits, too: a flood ends with `Flooded`, which whoever serves the port takes for the end of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import h11

from sandbox import Connection

BODY_BYTES = 32 * 1024 * 1024
HELD_BYTES = 2 * BODY_BYTES
"""Of all bodies that are being read or answered."""
HEAD_BYTES = 64 * 1024
PIECES = 20_000
"""Of one body: a chunk of one byte costs the host as much as one of thousands."""
REQUESTS = 2000
"""Of all connections, malformed ones included. A long look of a program takes some hundreds."""
IDLE_S = 600.0
"""A connection that says nothing for so long is closed; programs keep theirs open between calls."""


class Flooded(Exception):
    """More was asked than any program does. The text is for people."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request. Its headers are not handed on: nothing of them may matter."""

    method: str
    path: str
    """Without its query."""
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What it is told."""

    status: int
    body: bytes = b""
    kind: str = "application/json"


Answering = Callable[[Asked], Awaitable[Answer]]


class Gate:
    """What the connections of one port have taken together."""

    def __init__(self) -> None:
        self._requests = 0
        self._held_bytes = 0

    def admit(self) -> None:
        """One more request. Raises Flooded."""
        self._requests += 1
        if self._requests > REQUESTS:
            raise Flooded(f"more than {REQUESTS} requests came out of its container in one look")

    def hold(self, count: int) -> None:
        """So many bytes of a body are kept. Raises h11.RemoteProtocolError when there is no room for them now."""
        if self._held_bytes + count > HELD_BYTES:
            raise h11.RemoteProtocolError("too much at once", error_status_hint=503)
        self._held_bytes += count

    def release(self, count: int) -> None:
        """They are gone."""
        self._held_bytes -= count


async def talk(connection: Connection, answering: Answering, gate: Gate) -> None:
    """Serve one connection until it ends. Raises what it raises at its end, what `answering` raises, Flooded."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    while True:
        body = bytearray()
        try:
            asked = await _read(http, connection, body, gate)
            if asked is None:
                return
            await _send(http, connection, await answering(asked), bare=asked.method == "HEAD")
        except h11.RemoteProtocolError as error:
            gate.admit()
            await _send(http, connection, Answer(status=error.error_status_hint, body=b"{}"))
            return
        finally:
            gate.release(len(body))
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return
        http.start_next_cycle()


async def _read(http: h11.Connection, connection: Connection, body: bytearray, gate: Gate) -> Asked | None:
    """The next request, whose body comes into `body`; None when there is none. Raises h11.RemoteProtocolError, Flooded."""
    request: h11.Request | None = None
    pieces = 0
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
            gate.admit()
            request = event
        elif isinstance(event, h11.Data):
            pieces += 1
            if len(body) + len(event.data) > BODY_BYTES or pieces > PIECES:
                raise h11.RemoteProtocolError("too large", error_status_hint=413)
            gate.hold(len(event.data))
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            path = request.target.partition(b"?")[0].decode("ascii", "replace")
            return Asked(method=request.method.decode("ascii"), path=path, body=bytes(body))
        else:
            return None


async def _send(http: h11.Connection, connection: Connection, answer: Answer, *, bare: bool = False) -> None:
    """`bare`: its body is only announced."""
    if http.our_state is not h11.SEND_RESPONSE and http.our_state is not h11.IDLE:
        return
    headers = [("content-type", answer.kind), ("content-length", str(len(answer.body)))]
    head = http.send(h11.Response(status_code=answer.status, headers=headers)) or b""
    body = b"" if bare else http.send(h11.Data(data=answer.body)) or b""
    await connection.send(head + body + (http.send(h11.EndOfMessage()) or b""))
