"""How a command ended, and what it said."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal, assert_never

Reason = Literal["exited", "signalled", "timeout", "idle", "oom", "pids", "disk", "output", "killed", "refused", "engine", "lost"]
"""Why a command ended; each has a witness, none is guessed from an exit code.

exited, signalled: the kernel's wait status of the leader. timeout: our deadline passed and we killed it. idle: it wrote
nothing for `idle_timeout_s` and we killed it. oom: the kernel's counter of kills for memory moved while it ran, and SIGKILL
ended it. pids: the counter of refused processes moved while it ran, and it failed. disk: it failed, and a writable mount has
no block or no inode left; or drafts, or one file in them, outgrew their share, and it was killed. output: it wrote more
than `max_output_bytes` and, if it still ran, we killed it. killed: the caller ended it. refused: it could not be started
(no such program, no such folder). engine: its container's stream ended and the engine no longer answers. lost: the
container is gone while its engine lives, or its guest no longer answers."""

_NOT_EXECUTABLE = frozenset((errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR, errno.ETXTBSY))


@dataclass(frozen=True, kw_only=True)
class Output:
    """One stream of a command: all of it, or its head and its tail."""

    head: bytes = b""
    tail: bytes = b""
    cut_bytes: int = 0
    """How much is missing between head and tail."""

    @property
    def text(self) -> str:
        """For people and models: undecodable bytes replaced, the gap named."""
        if not self.cut_bytes:
            return (self.head + self.tail).decode("utf-8", "replace")
        gap = f"\n… {self.cut_bytes} bytes cut …\n"
        return self.head.decode("utf-8", "replace") + gap + self.tail.decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One finished command."""

    reason: Reason
    exit_code: int | None = None
    """Set when the leader exited by itself, whatever the reason is then called."""
    signal: int | None = None
    """Set when a signal ended the leader, whoever sent it."""
    why: str = ""
    """One sentence for people: what happened, and what to do next. Empty where the exit code or the signal says it all."""
    errno: int = 0
    """For `refused`: the system's own number, 0 when it never got that far."""
    stdout: Output = Output()
    stderr: Output = Output()
    wall_s: float = 0.0
    cpu_user_s: float = 0.0
    cpu_sys_s: float = 0.0
    max_rss_bytes: int = 0
    """Largest process of the command (rusage of waited-for children)."""
    peak_memory_bytes: int = 0
    """The most that was seen in use, as `peak_of` says; 0 when nothing was measured."""
    peak_pids: int = 0
    """The most processes and threads that were seen in the sandbox, the guest's own among them; 0 when nobody counted."""
    peak_of: Literal["process", "samples", "sandbox"] = "process"
    """Of what the peaks are. process: its largest process. samples: the whole sandbox, looked at once a second. sandbox: the
    kernel's own count since it opened (`execute`, where one command is all there was), files in memory included."""

    @property
    def ok(self) -> bool:
        """Exited with code 0."""
        return self.reason == "exited" and self.exit_code == 0

    @property
    def cut_bytes(self) -> int:
        """Output that was not kept, of both streams."""
        return self.stdout.cut_bytes + self.stderr.cut_bytes

    @property
    def shell_code(self) -> int:
        """As a shell would report it: the child's code or 128+n, 124 out of time, 125 ours, 126 not executable, 127 not found."""
        match self.reason:
            case "timeout" | "idle":
                return 124
            case "lost" | "engine":
                return 125
            case "refused":
                return 126 if self.errno in _NOT_EXECUTABLE else 127
            case "output":
                return self.exit_code or 128 + (self.signal or 9)  # not 0 when it was faster than we
            case "exited" | "signalled" | "oom" | "pids" | "disk" | "killed":
                if self.signal is None and self.exit_code is not None:
                    return self.exit_code
                return 128 + (self.signal or 9)
            case never:
                assert_never(never)
