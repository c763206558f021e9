"""Who owns a container: a process that can be told apart from any other, before and after a reboot.

A pid means something in its own pid namespace only: from the host, an owner that runs in a container (or the reverse) looks
dead. So the label names the namespace, and an owner in another one counts as alive until the next boot.
"""

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


def namespace() -> str:
    """The pid namespace in which our pid means something; empty when that cannot be told, or `/proc` belongs to another."""
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return ""
        return str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        return ""


def me() -> str:
    """The running process as a label: pid, start time, boot, pid namespace."""
    return f"{os.getpid()}:{_started(os.getpid())}:{boot()}:{namespace()}"


def alive(owner: str) -> bool:
    """Whether the process of such a label still runs. What cannot be judged counts as alive: never reap the unknown."""
    match owner.split(":"):
        case [pid, started, booted, *rest] if pid.isdecimal() and len(pid) < 20 and len(rest) <= 1:
            if booted != boot():
                return False
            if not rest or not rest[0] or rest[0] != namespace():
                return True
            return _started(int(pid)) == started
        case _:
            return True
