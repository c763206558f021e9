"""What leaves the guest: frames from every thread, one after the other, and never a wait for who does not take them.

Who has something to say writes it itself, for waking another thread costs more than most frames. What the pipe does not take at
once stays in a queue, which the host's credit bounds and the loop's thread empties. Long content goes from a pipe into ours
without passing through our memory: copying it twice was most of what we cost.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Callable

from sandbox.guest.pipes import splice
from sandbox.wire import Chunk

PIECES = 16
"""Of the queue, in one call."""


class Outlet:
    """One descriptor, which never blocks. Made on the loop's thread; `watch(fd, flush)` and `forget(fd)` are the loop's."""

    def __init__(
        self,
        fd: int,
        watch: Callable[[int, Callable[[int], None]], None],
        forget: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        self._fd = fd
        self._watch, self._forget, self._wake = watch, forget, wake
        self._lock = threading.Lock()
        self._queue: deque[Chunk] = deque()
        self._loop = threading.get_ident()
        self.broken = False
        """Nobody reads any more."""

    def send(self, head: bytes, body: Chunk = b"") -> None:
        """Send one frame, from any thread. `body` may change after the call."""
        with self._lock:
            self._queue.extend(map(bytes, (head, body) if self._queue else self._write((head, body))))
        self._leave()

    def send_from(self, pipe: int, head: bytes, count: int) -> None:
        """Send one frame whose last `count` bytes are in a pipe, from any thread.

        Whoever wrote them may have taken some out again (through /proc, in which a pipe's ends can be swapped): then zeros go,
        for the frame has begun.
        """
        with self._lock:
            left: list[Chunk] = [head] if self._queue else self._write((head,))
            moved = 0
            if splice is not None and not left:
                try:
                    moved = splice(pipe, self._fd, count)
                except OSError:
                    pass  # no room, or it cannot be done with what we write to
            while moved < count:
                try:
                    piece = os.read(pipe, count - moved)
                except BlockingIOError:
                    piece = b""
                left.append(piece or bytes(count - moved))
                moved += len(left[-1])
            self._queue.extend(map(bytes, left))
        self._leave()

    def idle(self) -> bool:
        """Nothing waits."""
        return not self._queue

    def _write(self, pieces: Sequence[Chunk]) -> list[Chunk]:
        """What the pipe did not take."""
        try:
            count = os.writev(self._fd, pieces)
        except BlockingIOError:
            count = 0
        except OSError:
            self.broken = True
            return []
        left: list[Chunk] = []
        for piece in pieces:
            if count < len(piece):
                left.append(memoryview(piece)[count:] if count else piece)
            count = max(0, count - len(piece))
        return left

    def _leave(self) -> None:
        """The rest is for the loop's thread."""
        if threading.get_ident() != self._loop:
            if self._queue or self.broken:
                self._wake()
        elif self._queue:
            self._watch(self._fd, self._flush)

    def go_on(self) -> None:
        """Another thread may have left something here."""
        if self._queue:
            self._flush(self._fd)

    def _flush(self, fd: int) -> None:
        with self._lock:
            while self._queue:
                pieces = [self._queue.popleft() for _ in range(min(len(self._queue), PIECES))]
                if left := self._write(pieces):
                    self._queue.extendleft(reversed(left))
                    self._watch(fd, self._flush)
                    return
        self._forget(fd)
