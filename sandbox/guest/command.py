"""One spawned program: its pipes, its deadline, its end.

A command is over when its leader has ended, whatever it left behind has been killed, and its pipes are drained. Killing
before draining is what keeps a daemonised grandchild that holds the pipe from hanging the caller.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from sandbox.guest import birth
from sandbox.guest.pipes import FULL_BYTES, LONG_BYTES, waiting_bytes, widen
from sandbox.wire import CLOSE, WINDOW, Chunk, WireError, control_frame, credit_frame, data_head

if TYPE_CHECKING:
    from sandbox.guest.serve import Guest

CHUNK = 64 * 1024
DRAIN_S = 2.0
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
        idle, most = request.get("idle_timeout_s"), request.get("max_output_bytes")
        self.idle_s: float | None = None if idle is None else float(idle)
        self.heard = self.started
        """When it last said something, or could not because of us."""
        self._max_output: int | None = None if most is None else int(most)
        self._written = 0
        self._limits = {"timeout": timeout, "idle": idle, "output": most}
        self.peaks = (0, 0)
        """The most memory and processes that the clock saw in use in the whole sandbox."""
        self.forced = ""
        self.verdict: dict[str, Any] | None = None
        self.drain_until = 0.0
        self._counters = guest.counters()
        self._input: deque[Chunk] = deque()
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
        if self._stdin is not None:
            widen(self._stdin)
        self._outputs = {_own(born.stdout): 1, _own(born.stderr): 2}
        self._wide: set[int] = set()
        self._watched = True
        for fd in self._outputs:
            guest.watch_read(fd, self.readable)

    # -- from the child ------------------------------------------------------------------------------------

    def readable(self, fd: int) -> None:
        """Pass on what the child wrote, as far as the host granted credit."""
        if self.credit <= 0:
            return  # the other stream has just used it up
        if fd in self._wide and self._max_output is None and self.guest.outlet.idle() and self._relay(fd):
            return
        try:
            count = os.readv(fd, (_buffer[: self.credit],))
        except BlockingIOError:
            return
        if not count:
            self._close_output(fd)
            return
        if count >= FULL_BYTES and fd not in self._wide:
            self._wide.add(fd)
            widen(fd)  # not for each command at its start: few say that much
        if self._max_output is not None:
            count = self._allowed(count)
            if not count:
                return
        self.guest.send(data_head(self.channel, self._outputs[fd], count), _buffer[:count])
        self._passed_on(count)

    def _relay(self, fd: int) -> bool:
        """Pass much on at once, from pipe to pipe. False when it is not much that waits there."""
        count = min(waiting_bytes(fd), self.credit, LONG_BYTES)
        if count < FULL_BYTES:
            return False
        self.guest.outlet.send_from(fd, data_head(self.channel, self._outputs[fd], count), count)
        self._passed_on(count)
        return True

    def _passed_on(self, count: int) -> None:
        self.credit -= count
        if self.idle_s is not None:
            self.heard = time.monotonic()
        if self.credit <= 0:
            self._pause()

    def _allowed(self, count: int) -> int:
        """How many of these bytes may still be passed on; with one too many, it ends. The same when it ended just before."""
        room = max(0, (self._max_output or 0) - self._written)
        self._written += count
        if count <= room:
            return count
        self.kill("output")
        if self.verdict is not None and self.verdict["reason"] in ("exited", "signalled", "pids", "disk"):
            self.verdict.update(reason="output", message=self._why("output"))
        return room

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
        self._wide.discard(fd)
        os.close(fd)

    # -- from the host -------------------------------------------------------------------------------------

    def granted(self, count: int) -> None:
        """The host can take more output."""
        self.credit += count
        self.heard = time.monotonic()  # the wait for a slow host does not count
        self.drain_until = self.heard + DRAIN_S
        if self.credit > 0:
            self._resume()

    def data(self, chunk: Chunk) -> None:
        """Input for the child; dropped when it no longer reads."""
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
                    self._input[0] = memoryview(chunk)[count:]
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
        """End it now; `why` (timeout, idle, output, killed) becomes the reason."""
        if self.verdict is None:
            self.forced = self.forced or why
            self.guest.world.signal_session(self.pid, signal.SIGKILL)
            self.guest.world.signal_session(self.pid, signal.SIGCONT)

    def expires(self) -> float | None:
        """When the loop has to look at it next; None: nothing but its own end ends it."""
        if self.verdict is not None:
            return self.drain_until if self.credit > 0 else None  # without credit only the host can help
        if self.idle_s is None or self.credit <= 0 or self.guest.stopped:
            return self.deadline
        idle_at = self.heard + self.idle_s
        return idle_at if self.deadline is None else min(self.deadline, idle_at)

    def expire(self, now: float) -> None:
        """Kill it when its time, or our patience with its silence, is over."""
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self.kill("timeout")
        elif self.idle_s is not None and not self.guest.stopped and self.credit > 0 and now >= self.heard + self.idle_s:
            self.idle_s = None
            self.kill("idle")

    def _judge(self, code: int | None, number: int | None) -> str:
        """Why it ended, by what the kernel counted since it began. Looked at only when it failed: that costs."""
        if self.forced:
            return self.forced
        if code == 0:
            return "exited"
        kills, forks = self.guest.world.counters()
        if (number == signal.SIGKILL or code == 137) and kills > self._counters[0]:
            return "oom"
        if forks > self._counters[1]:
            return "pids"
        if number == signal.SIGXFSZ:
            return "disk"
        if self.guest.world.full():
            return "disk"
        return "exited" if number is None else "signalled"

    def _why(self, reason: str) -> str:
        """For people: which limit it was, and what to do about it."""
        limit = self._limits.get(reason)
        if reason == "timeout":
            return f"killed: it still ran after {limit:g} s; give it a longer timeout_s, or less to do"
        if reason == "idle":
            return f"killed: it wrote nothing for {limit:g} s; give it a longer idle_timeout_s, or let it report its progress"
        if reason == "output":
            return f"killed: it wrote more than {limit} bytes; raise max_output_bytes, or let it write into a file"
        memory, pids = self.guest.world.limits()
        if reason == "oom":
            mib = f" of {memory // 1024**2} MiB" if memory else ""
            return (
                f"the kernel killed it: the sandbox's memory{mib}, files included, was used up; raise memory_bytes, or use less"
            )
        if reason == "pids":
            most = f" {pids}" if pids else ""
            return (
                f"it failed after a process or thread too many was refused; raise pids{most and f' beyond{most}'}, or start fewer"
            )
        if reason == "disk" and self.forced:
            return "killed: the drafts took more of the disk than the sandbox was given; write less, or raise its limits"
        if reason == "disk" and (self.verdict or {}).get("signal") == signal.SIGXFSZ:
            return "ended by the kernel: a file grew beyond the sandbox's share of the disk; write less, or raise workspace_bytes"
        if reason == "disk":
            places = ", ".join(self.guest.world.full()) or "a writable place"
            return f"it failed while {places} was full; raise workspace_bytes, tmp_bytes or inodes, or remove files"
        return ""

    def leader_ended(self, status: int, usage: Any) -> None:
        """The loop reaped our leader: judge, and kill what it left."""
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        reason = self._judge(code, number)
        self.verdict = {
            "reason": reason,
            "exit_code": code,
            "signal": number,
            "wall_s": time.monotonic() - self.started,
            "cpu_user_s": usage.ru_utime,
            "cpu_sys_s": usage.ru_stime,
            "max_rss_bytes": usage.ru_maxrss * 1024,
        }
        if reason not in ("exited", "signalled", "killed"):
            self.verdict["message"] = self._why(reason)
        if self.peaks[1]:
            memory = max(self.peaks[0], usage.ru_maxrss * 1024)
            self.verdict.update(peak_memory_bytes=memory, peak_pids=self.peaks[1], peak_of="samples")
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
    """Our end of a pipe: never waits."""
    os.set_blocking(fd, False)
    return fd
