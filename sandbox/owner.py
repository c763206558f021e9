"""Who owns a container: a process that can be told apart from any other, before and after a reboot."""

from __future__ import annotations

import os
from pathlib import Path

LABEL = "massgen.owner"


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]


def boot() -> str:
    """Which boot of the machine this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def me() -> str:
    """The running process as a label: pid, start time, boot."""
    return f"{os.getpid()}:{_started(os.getpid())}:{boot()}"


def alive(owner: str) -> bool:
    """Whether the process of such a label still runs. A label that cannot be read counts as alive: never reap the unknown."""
    match owner.split(":"):
        case [pid, started, booted] if pid.isdecimal() and len(pid) < 20:
            return booted == boot() and _started(int(pid)) == started
        case _:
            return True
