"""One spawned program: its pipes, its deadline, its end.

A command is over when its leader has ended, whatever it left behind has been killed, and its pipes are drained. Killing
before draining is what keeps a daemonised grandchild that holds the pipe from hanging the caller.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from sandbox.guest import birth
from sandbox.wire import CLOSE, WINDOW, WireError, control_frame, credit_frame, data_frame

if TYPE_CHECKING:
    from sandbox.guest.serve import Guest

CHUNK = 256 * 1024
DRAIN_S = 2.0
PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031
_buffer = memoryview(bytearray(CHUNK))


class Command:
    """A child in a session of its own, seen by the loop as file descriptors."""

    def __init__(self, guest: Guest, channel: int, request: dict[str, Any]) -> None:
        """Starts it. Raises OSError when there is no such program or folder, WireError for a malformed request."""
        argv, env = request.get("argv"), request.get("env")
        if not isinstance(argv, list) or not argv or not all(isinstance(a, str) and "\0" not in a for a in argv):
            raise WireError("spawn without an argv")
        if not isinstance(env, dict):
            raise WireError("spawn without an env")
        self.guest = guest
        self.channel = channel
        self.credit = WINDOW
        self.started = time.monotonic()
        timeout = request.get("timeout_s")
        self.deadline: float | None = None if timeout is None else self.started + float(timeout)
        self.timed = timeout is not None
        """A single command; without a deadline it is a program that is talked to, and starts commands itself."""
        self.forced = ""
        self.verdict: dict[str, Any] | None = None
        self.drain_until = 0.0
        self._ooms = guest.ooms()
        self._input: deque[bytes] = deque()
        self._input_ended = not request.get("stdin")
        with guest.births:
            born = birth.start(
                [guest.world.argument(a) for a in argv],
                {str(k): str(v) for k, v in env.items()},
                guest.world.path(str(request.get("cwd") or "/")),
                feed=not self._input_ended,
            )
        self.pid = born.pid
        guest.world.adopt(guest, self.pid)
        self._stdin = None if born.stdin is None else _own(born.stdin)
        self._outputs = {_own(born.stdout): 1, _own(born.stderr): 2}
        self._watched = True
        for fd in self._outputs:
            guest.watch_read(fd, self.readable)

    # -- from the child ------------------------------------------------------------------------------------

    def readable(self, fd: int) -> None:
        """Pass on what the child wrote, as far as the host granted credit."""
        if self.credit <= 0:
            return  # the other stream has just used it up
        try:
            count = os.readv(fd, (_buffer[: self.credit],))
        except BlockingIOError:
            return
        if not count:
            self._close_output(fd)
            return
        self.credit -= count
        self.guest.send(data_frame(self.channel, self._outputs[fd], _buffer[:count]))
        if self.credit <= 0:
            self._pause()

    def _pause(self) -> None:
        if self._watched:
            self._watched = False
            for fd in self._outputs:
                self.guest.forget(fd)

    def _resume(self) -> None:
        if not self._watched:
            self._watched = True
            for fd in self._outputs:
                self.guest.watch_read(fd, self.readable)

    def _close_output(self, fd: int) -> None:
        if self._watched:
            self.guest.forget(fd)
        del self._outputs[fd]
        os.close(fd)

    # -- from the host -------------------------------------------------------------------------------------

    def granted(self, count: int) -> None:
        """The host can take more output."""
        self.credit += count
        self.drain_until = time.monotonic() + DRAIN_S  # the wait for a slow host does not count
        if self.credit > 0:
            self._resume()

    def data(self, payload: bytes) -> None:
        """Input for the child; dropped when it no longer reads."""
        chunk = payload[1:]
        if self._stdin is None:
            self.guest.send(credit_frame(self.channel, len(chunk)))
            return
        self._input.append(chunk)
        self.writable(self._stdin)

    def end(self) -> None:
        """No more input."""
        self._input_ended = True
        if self._stdin is not None and not self._input:
            self._close_input()

    def reset(self) -> None:
        """The caller gave up: kill it."""
        self.kill("killed")

    def writable(self, fd: int) -> None:
        """Feed the child; the host gets its credit back as the child takes the bytes."""
        taken = 0
        try:
            while self._input:
                chunk = self._input[0]
                count = os.write(fd, chunk)
                taken += count
                if count < len(chunk):
                    self._input[0] = chunk[count:]
                    break
                self._input.popleft()
        except BlockingIOError:
            pass
        except OSError:  # it closed its stdin: what is left is dropped, and granted, so that the host does not wait
            taken += sum(map(len, self._input))
            self._close_input()
        if taken:
            self.guest.send(credit_frame(self.channel, taken))
        if self._stdin is None:
            return
        if self._input:
            self.guest.watch_write(fd, self.writable)
        else:
            self.guest.forget(fd)
            if self._input_ended:
                self._close_input()

    def _close_input(self) -> None:
        self._input.clear()
        if self._stdin is not None:
            self.guest.forget(self._stdin)
            os.close(self._stdin)
            self._stdin = None

    # -- its end -------------------------------------------------------------------------------------------

    def kill(self, why: str) -> None:
        """End it now; `why` (timeout, killed) becomes the reason."""
        if self.verdict is None:
            self.forced = self.forced or why
            self.guest.world.signal_session(self.pid, signal.SIGKILL)
            self.guest.world.signal_session(self.pid, signal.SIGCONT)

    def leader_ended(self, status: int, usage: Any) -> None:
        """The loop reaped our leader: judge, and kill what it left."""
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        reason = "exited" if number is None else "signalled"
        if self.forced:
            reason = self.forced
        elif (number == signal.SIGKILL or code == 137) and self.guest.world.oom_kills() > self._ooms:
            reason = "oom"
        self.verdict = {
            "reason": reason,
            "exit_code": code,
            "signal": number,
            "wall_s": time.monotonic() - self.started,
            "cpu_user_s": usage.ru_utime,
            "cpu_sys_s": usage.ru_stime,
            "max_rss_bytes": usage.ru_maxrss * 1024,
        }
        self.drain_until = time.monotonic() + DRAIN_S
        self._close_input()

    def finished(self) -> bool:
        """Say how it ended once the pipes are empty; afterwards the loop forgets us.

        With the leftovers dead, end of file comes at once; the deadline is for a pipe that another live command
        was handed. It does not run while the host is slow to take what is there.
        """
        if self.verdict is None:
            return False
        if self._outputs and self.credit > 0 and time.monotonic() > self.drain_until:
            for fd in list(self._outputs):
                self._close_output(fd)
        if self._outputs:
            return False
        self.guest.send(control_frame(CLOSE, self.channel, self.verdict))
        return True


def _own(fd: int) -> int:
    """Our end of a pipe: never waits, and holds what it can."""
    os.set_blocking(fd, False)
    try:
        fcntl.fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # beyond the user's pipe budget: slower, not wrong
    return fd
