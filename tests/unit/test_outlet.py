"""The guest's way out: frames stay whole, whatever becomes of the pipe that their bytes lie in, or of the reader."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from sandbox import wire
from sandbox.guest.outlet import Outlet

HEAD = wire.data_head(7, 1, 100_000)
LONG = bytes(range(250)) * 400


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """One to read from and one to write to, which take 64 KiB each and never wait."""
    fds = (*os.pipe(), *os.pipe())
    for fd in fds:
        os.set_blocking(fd, False)
    yield fds
    for fd in fds:
        os.close(fd)


class Loop:
    """What an outlet asks of the guest's loop."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[int], None]] = []

    def watch(self, _fd: int, ready: Callable[[int], None]) -> None:
        """It wants to write more."""
        self.waiting.append(ready)

    def drained(self, reader: int, writer: int) -> bytes:
        """All that comes out, while it may write whenever there is room."""
        found = bytearray()
        while True:
            try:
                found += os.read(reader, 1 << 20)
            except BlockingIOError:
                if not self.waiting:
                    return bytes(found)
                self.waiting.pop()(writer)


@pytest.mark.parametrize("busy_bytes", [0, 30_000, 65_536])
@pytest.mark.parametrize("stolen_bytes", [0, 70_000, 100_000])
def test_a_frame_is_not_torn(pipes: tuple[int, int, int, int], busy_bytes: int, stolen_bytes: int) -> None:
    """Its length was said: what the pipe to the host does not take follows, what somebody took out of ours before is zeros."""
    source, program, reader, writer = pipes
    loop = Loop()
    outlet = Outlet(writer, loop.watch, lambda _fd: None, lambda: None)
    outlet.send(bytes(busy_bytes))
    there = os.write(program, LONG)
    stolen = os.read(source, stolen_bytes) if stolen_bytes else b""
    outlet.send_from(source, HEAD, len(LONG))
    outlet.send(b"the next", b"frame")
    found = loop.drained(reader, writer)
    whole = LONG[len(stolen) : there].ljust(len(LONG), b"\0")
    assert found == bytes(busy_bytes) + HEAD + whole + b"the nextframe"
