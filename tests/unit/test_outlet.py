"""The guest's way out: frames stay whole, whatever becomes of the pipe that their bytes lie in, or of the reader."""

from __future__ import annotations

import os
import threading
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


def in_thread(work: Callable[[], None]) -> None:
    """And wait for its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_another_thread_writes_itself_and_wakes_the_loop_only_for_the_rest(pipes: tuple[int, int, int, int]) -> None:
    """Frames come in the order in which they were sent, whoever sent them; what they were made of may change after that."""
    source, program, reader, writer = pipes
    loop = Loop()
    woken: list[bool] = []
    outlet = Outlet(writer, loop.watch, lambda _fd: None, lambda: woken.append(True))
    body = bytearray(b"first")
    in_thread(lambda: outlet.send(b"1:", body))
    body[:] = b"other"
    assert os.read(reader, 100) == b"1:first"
    assert outlet.idle()
    assert not woken
    there = os.write(program, LONG)
    outlet.send(bytes(60_000))
    in_thread(lambda: outlet.send_from(source, HEAD, there))
    assert woken
    assert not outlet.idle()
    last = bytearray(b"last")
    in_thread(lambda: outlet.send(b"", last))
    last[:] = b"gone"
    assert not loop.waiting  # only the loop's own thread watches
    outlet.go_on()
    assert loop.drained(reader, writer) == bytes(60_000) + HEAD + LONG[:there] + b"last"
    assert outlet.idle()


def test_frames_of_many_threads_are_not_mixed(pipes: tuple[int, int, int, int]) -> None:
    """Each comes whole, and each thread's in its order, while somebody reads slowly."""
    _, _, reader, writer = pipes
    loop = Loop()
    outlet = Outlet(writer, loop.watch, lambda _fd: None, lambda: None)
    size = 3000

    def talk(who: int) -> None:
        for number in range(50):
            outlet.send(bytes((who, number)), bytes((who,)) * size)

    threads = [threading.Thread(target=talk, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    found = bytearray()
    while any(thread.is_alive() for thread in threads) or not outlet.idle():
        outlet.go_on()
        found += loop.drained(reader, writer)
    found += loop.drained(reader, writer)
    frames = [bytes(found[at : at + size + 2]) for at in range(0, len(found), size + 2)]
    assert all(frame[2:] == frame[:1] * size for frame in frames)
    for who in range(4):
        assert [frame[1] for frame in frames if frame[0] == who] == list(range(50))
