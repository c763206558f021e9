"""How a command ended, and what it said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reason = Literal["exited", "signalled", "timeout", "killed", "oom", "lost", "refused"]
"""exited, signalled: by itself. timeout: our deadline. killed: the caller ended it. oom: a process of the
sandbox fell to the memory limit (a cgroup counter moved, never guessed from 137). lost: the sandbox died.
refused: it could not be started (no such program, no such folder)."""


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
    """Set when `reason` is exited."""
    signal: int | None = None
    """Set when a signal ended the leader, whoever sent it."""
    message: str = ""
    """For `refused` and `lost`: why."""
    stdout: Output = Output()
    stderr: Output = Output()
    wall_s: float = 0.0
    cpu_user_s: float = 0.0
    cpu_sys_s: float = 0.0
    max_rss_bytes: int = 0
    """Largest process of the command (rusage of waited-for children)."""

    @property
    def ok(self) -> bool:
        """Exited with code 0."""
        return self.reason == "exited" and self.exit_code == 0

    @property
    def shell_code(self) -> int:
        """As a shell would report it: the code, 124 for a timeout, 125 ours, 127 not started, 128+n."""
        match self.reason:
            case "exited":
                return self.exit_code or 0
            case "timeout":
                return 124
            case "lost":
                return 125
            case "refused":
                return 127
            case _:
                return 128 + (self.signal or 9)
