"""A loopback port inside the container whose connections are answered by the host, over the one stream.

The host asks for the port (`listen`), and then, once for each connection that it is ready to take, for the next one
(`accept`). So every channel is still opened by the host, and no connection is taken from the kernel that the host has no room
for: ten thousand of them wait in, or fall off, the kernel's own short queue. On an accepted channel stream 1 carries bytes and
stream 2 says what becomes of the peer: `+` somebody has connected, `.` it will send no more.

The port is bound before anything else runs and without SO_REUSEPORT, so that nobody inside can take it over. Credit bounds
what waits here in either direction; a peer that does not read holds up its own connection only.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any

from sandbox.wire import CLOSE, WINDOW, Chunk, WireError, control_frame, credit_frame, data_frame, data_head, record

if TYPE_CHECKING:
    import socket

    from sandbox.guest.serve import Guest

CHUNK = 64 * 1024
BACKLOG = 64
CONNECTED = b"+"
SAID_ALL = b"."
_buffer = memoryview(bytearray(CHUNK))


class Port:
    """One listening socket, on the loopback alone."""

    def __init__(self, guest: Guest, channel: int, request: dict[str, Any]) -> None:
        """Raises OSError when the port is taken, WireError for a malformed request."""
        import socket  # costs as much as a fifth of a container's start, and few ever ask for a port

        number = request.get("port")
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 65536:
            raise WireError(f"a port {number!r}")
        self.guest = guest
        self.channel = channel
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Past connections keep a number for a minute; a port that somebody listens on stays refused all the same.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", number))
            self._socket.listen(BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        self._closed = False
        self._waiting: deque[Connection] = deque()
        guest.send(data_frame(channel, 1, record({"port": self._socket.getsockname()[1]})))

    def await_connection(self, connection: Connection) -> None:
        """The host has room for one more. A port that has just been closed closes it at once."""
        if self._closed:
            connection.close("closed")
            return
        if not self._waiting:
            self.guest.watch_read(self._socket.fileno(), self._ready)
        self._waiting.append(connection)

    def gave_up(self, connection: Connection) -> None:
        """The host no longer waits."""
        if connection in self._waiting:
            self._waiting.remove(connection)
            if not self._waiting:
                self.guest.forget(self._socket.fileno())

    def _ready(self, fd: int) -> None:
        try:
            peer, _ = self._socket.accept()
        except OSError:  # it has gone again, or there is no descriptor left
            return
        connection = self._waiting.popleft()
        if not self._waiting:
            self.guest.forget(fd)
        connection.begin(peer)

    # -- from the host: a port takes no bytes ----------------------------------------------------------------

    def granted(self, count: int) -> None:
        """Nothing waits for it."""

    def data(self, chunk: Chunk) -> None:
        """There is nobody to give it to."""
        raise WireError(f"{len(chunk)} bytes for a port")

    def end(self) -> None:
        """It says nothing anyway."""

    def reset(self) -> None:
        """Close the port; connections go on until the host closes each."""
        if self._closed:
            return
        self._closed = True
        if self._waiting:
            self.guest.forget(self._socket.fileno())
        self._socket.close()
        while self._waiting:
            self._waiting.popleft().close("closed")
        self.guest.send(control_frame(CLOSE, self.channel, {"reason": "ok"}))

    def finished(self) -> bool:
        """The loop may forget us."""
        return self._closed


class Connection:
    """One connection to a port, from the host's wish for it to its end."""

    def __init__(self, guest: Guest, channel: int, port: Port) -> None:
        self.guest = guest
        self.channel = channel
        self.credit = WINDOW - len(CONNECTED + SAID_ALL)
        """For the peer's bytes; there is always room for our own two words."""
        self._port = port
        self._socket: socket.socket | None = None
        self._in = self._out = -1
        """The same socket twice: the loop watches a descriptor for one thing at a time."""
        self._watched = False
        self._peer_said_all = False
        self._host_said_all = False
        self._done = False
        self._output: deque[Chunk] = deque()

    def begin(self, peer: socket.socket) -> None:
        """Somebody has connected."""
        peer.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        try:
            peer.setsockopt(6, 1, 1)  # TCP_NODELAY: a model's words come one by one
        except OSError:
            pass  # it has gone already, which reading tells
        self._socket = peer
        self._in = peer.fileno()
        self._out = os.dup(self._in)
        self.guest.send(data_frame(self.channel, 2, CONNECTED))
        self._watch()

    # -- from the peer ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if not self._watched and not self._peer_said_all and self.credit > 0:
            self._watched = True
            self.guest.watch_read(self._in, self._readable)

    def _pause(self) -> None:
        if self._watched:
            self._watched = False
            self.guest.forget(self._in)

    def _readable(self, fd: int) -> None:
        try:
            count = os.readv(fd, (_buffer[: self.credit],))
        except BlockingIOError:
            return
        except OSError:
            self.close("reset")
            return
        if not count:
            self._pause()
            self._peer_said_all = True
            self.guest.send(data_frame(self.channel, 2, SAID_ALL))
            self._close_if_over()
            return
        self.credit -= count
        self.guest.send(data_head(self.channel, 1, count), _buffer[:count])
        if self.credit <= 0:
            self._pause()

    # -- from the host ---------------------------------------------------------------------------------------

    def granted(self, count: int) -> None:
        """The host can take more."""
        self.credit += count
        if self._socket is not None and not self._done:
            self._watch()

    def data(self, chunk: Chunk) -> None:
        """Bytes for the peer; the host gets its credit back as the peer takes them."""
        if self._socket is None:
            raise WireError("bytes for a connection that nobody has made")
        if not self._done:
            self._output.append(chunk)
            self._writable(self._out)

    def end(self) -> None:
        """Nothing more for the peer."""
        self._host_said_all = True
        if self._socket is not None and not self._output:
            self._half_close()

    def reset(self) -> None:
        """The host wants it gone."""
        self.close("killed")

    def _writable(self, fd: int) -> None:
        taken = 0
        try:
            while self._output:
                chunk = self._output[0]
                count = os.write(fd, chunk)
                taken += count
                if count < len(chunk):
                    self._output[0] = memoryview(chunk)[count:]
                    break
                self._output.popleft()
        except BlockingIOError:
            pass
        except OSError:  # the peer has hung up
            self.close("reset")
            return
        if taken:
            self.guest.send(credit_frame(self.channel, taken))
        if self._output:
            self.guest.watch_write(fd, self._writable)
            return
        self.guest.forget(fd)
        if self._host_said_all:
            self._half_close()

    def _half_close(self) -> None:
        try:
            if self._socket is not None:
                self._socket.shutdown(1)
        except OSError:
            pass  # it has gone already
        self._close_if_over()

    # -- its end ---------------------------------------------------------------------------------------------

    def _close_if_over(self) -> None:
        if self._peer_said_all and self._host_said_all and not self._output:
            self.close("ok")

    def close(self, why: str) -> None:
        """End it and tell the host, once."""
        if self._done:
            return
        self._done = True
        self._output.clear()
        if self._socket is None:
            self._port.gave_up(self)
        else:
            self._pause()
            self.guest.forget(self._out)
            os.close(self._out)
            self._socket.close()
        self.guest.send(control_frame(CLOSE, self.channel, {"reason": why}))

    def finished(self) -> bool:
        """The loop may forget us."""
        return self._done
