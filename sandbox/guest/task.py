"""One file operation: a thread with a byte stream each way, so that a slow disk never holds up the loop."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Callable

from sandbox.guest.pipes import LONG_BYTES, splice, widen
from sandbox.wire import CLOSE, WINDOW, Chunk, Records, control_frame, credit_frame, data_head, record

if TYPE_CHECKING:
    from sandbox.guest.serve import Guest

CHUNK = 64 * 1024

Work = Callable[["Task", dict[str, Any]], dict[str, Any]]


class Gone(Exception):
    """The host gave up on this operation."""


class Killed(BaseException):
    """The guest of a fake engine ends here, as if it had been killed: no cleaning up, no word to the host."""


class Task:
    """The operation's end of its channel. Methods without a note run on the operation's own thread."""

    def __init__(self, guest: Guest, channel: int, work: Work, request: dict[str, Any]) -> None:
        self.guest = guest
        self.channel = channel
        self._credit = WINDOW
        self._input = Records()
        self._waiting = 0
        self._ended = False
        self._reset = False
        self._done = False
        self._change = threading.Condition()
        # Where memory has run out, the start below would wait for ever for a thread that could not even begin: better a
        # MemoryError, which ends the guest and with it the sandbox.
        bytearray(CHUNK)
        self._thread = threading.Thread(target=self._run, args=(work, request), daemon=True)
        self._thread.start()

    def _run(self, work: Work, request: dict[str, Any]) -> None:
        try:
            verdict = dict(work(self, request), reason="ok")
        except Killed:
            self._done = True
            return
        except Gone:
            verdict = {"reason": "killed"}
        except OSError as error:
            name = error.filename.decode("utf-8", "surrogateescape") if isinstance(error.filename, bytes) else error.filename
            verdict = {"reason": "error", "errno": error.errno or 0, "message": error.strerror or str(error), "path": name}
        except Exception as error:  # noqa: BLE001 - whatever it was, the host must hear of it
            verdict = {"reason": "error", "message": f"{type(error).__name__}: {error}"}
        self._done = True
        self.guest.send(control_frame(CLOSE, self.channel, verdict))
        self.guest.wake()

    def send(self, chunk: bytes) -> None:
        """Bytes to the host, waiting for credit. Raises Gone."""
        view = memoryview(chunk)
        while view:
            count = self._room(min(len(view), CHUNK))
            self.guest.send(data_head(self.channel, 1, count), view[:count])
            self._spend(count)
            view = view[count:]

    def send_content(self, fd: int, count: int, *, steady: bool) -> None:
        """`count` bytes to the host from where a file stands. Raises Gone, OSError: it holds fewer.

        Of a `steady` one nobody changes anything before the host has it all: so its pages themselves may travel. They do from
        `LONG_BYTES` on, which is faster than two copies; for less the pipe that it takes costs more.
        """
        if not (steady and count >= LONG_BYTES):
            self._copy(fd, count)
            return
        source, sink = os.pipe()
        try:
            os.set_blocking(source, False)
            widen(sink)
            while count:
                moved = self._move(fd, sink, source, self._room(min(count, LONG_BYTES)))
                if not moved:
                    break
                count -= moved
        finally:
            os.close(source)
            os.close(sink)
        self._copy(fd, count)

    def _move(self, fd: int, sink: int, source: int, count: int) -> int:
        """Pass file pages on through a pipe of ours; how many bytes of them, none where that cannot be done."""
        try:
            moved = splice(fd, sink, count) if splice is not None else 0
        except OSError:
            moved = 0
        if moved:
            self.guest.outlet.send_from(source, data_head(self.channel, 1, moved), moved)
            self._spend(moved)
        return moved

    def _copy(self, fd: int, count: int) -> None:
        while count:
            chunk = os.read(fd, min(CHUNK, count))
            if not chunk:
                raise OSError(5, "the file shrank while it was read")
            self.send(chunk)
            count -= len(chunk)

    def _room(self, wanted: int) -> int:
        """Wait for credit; how much of it there is, at most `wanted`. Raises Gone."""
        with self._change:
            self._change.wait_for(lambda: self._credit > 0 or self._reset)
            if self._reset:
                raise Gone
            return min(wanted, self._credit)

    def _spend(self, count: int) -> None:
        with self._change:
            self._credit -= count

    def send_record(self, value: Any) -> None:
        """One JSON record to the host."""
        self.send(record(value))

    def _pull(self, take: Callable[[], Any]) -> Any:
        with self._change:
            while True:
                value = take()
                if value is not None and value != b"":
                    break
                if self._reset or self._ended:
                    raise Gone
                self._give_back()  # what is there is not enough
                self._change.wait()
            # Not each time: a word to the host costs more than a piece. And not before the disk has kept up with the host, who
            # would fill our memory.
            if self._waiting >= WINDOW // 4 and len(self._input) < WINDOW // 2:
                self._give_back()
        return value

    def _give_back(self) -> None:
        consumed, self._waiting = self._waiting, 0
        if consumed:
            self.guest.send(credit_frame(self.channel, consumed))

    def receive_record(self) -> Any:
        """The next JSON record from the host. Raises Gone when the stream ended first."""
        return self._pull(self._input.record)

    def receive(self, limit: int) -> Chunk:
        """Between 1 and `limit` raw bytes from the host. Raises Gone."""
        chunk: Chunk = self._pull(lambda: self._input.raw(limit))
        return chunk

    # -- on the loop's thread --------------------------------------------------------------------------------

    def granted(self, count: int) -> None:
        """The host can take more."""
        with self._change:
            self._credit += count
            self._change.notify_all()

    def data(self, chunk: Chunk) -> None:
        """More bytes from the host; credit goes back when the operation takes them."""
        with self._change:
            self._input.feed(chunk)
            self._waiting += len(chunk)
            self._change.notify_all()

    def end(self) -> None:
        """The host has said everything."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def reset(self) -> None:
        """The host gave up."""
        with self._change:
            self._reset = True
            self._change.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for its end, when nobody is left to tell."""
        self._thread.join(seconds)

    def finished(self) -> bool:
        """The loop may forget us."""
        return self._done
