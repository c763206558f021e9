"""Which processes are ours, and how they end: this process is the subreaper of everything it starts.

A daemon that forks twice and takes a session of its own is reparented to the nearest subreaper, so it stays in the
tree below us and `/proc` finds it; killing a process group alone would miss it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable

PR_SET_CHILD_SUBREAPER = 36

JOB_MARK = "MASSGEN_JOB"
"""Set in the environment of a background job: what it starts is known by it, wherever it is reparented."""

EXEC_ASKED = 50
"""How often a process in the middle of `execve` is asked again, a millisecond apart, what its environment is."""
EXEC_MET = 4
"""So often in none, with a command line: it has none."""


def become_subreaper() -> bool:
    """Orphans below us become our children. False where the system has no such thing: they go to PID 1, the guest."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        done: int = libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError):
        return False
    return done == 0


class Member:
    """One living process below us, as /proc tells."""

    def __init__(self, pid: int, parent: int, session: int) -> None:
        self.pid = pid
        self.parent = parent
        self.session = session


def family(root: int) -> list[Member]:
    """All living descendants of `root` (zombies are not living)."""
    everyone: dict[int, Member] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                stat = file.read()
        except OSError:
            continue
        # the command's name is in parentheses and may contain anything, also ") Z 1"
        fields = stat[stat.rindex(b")") + 2 :].split()
        if fields[0] not in (b"Z", b"X"):
            everyone[int(name)] = Member(int(name), int(fields[1]), int(fields[3]))
    return [member for member in everyone.values() if member.pid != root and _below(member, root, everyone)]


def _below(member: Member, root: int, everyone: dict[int, Member]) -> bool:
    seen: set[int] = set()
    at: Member | None = member
    while at is not None and at.pid not in seen:
        if at.parent == root:
            return True
        seen.add(at.pid)
        at = everyone.get(at.parent)
    return False


def job_mark(pid: int) -> str:
    """Which background job a process belongs to; empty when none."""
    for item in _environ(pid).split(b"\0"):
        if item.startswith(JOB_MARK.encode() + b"="):
            return item.split(b"=", 1)[1].decode("utf-8", "replace")
    return ""


def _environ(pid: int) -> bytes:
    """As it was given to the program; a process between two programs has none for an instant, and is asked again.

    In that instant (in `execve`) its command line is empty too, which a program with an empty environment is not. Who starts
    one program after the other may have gone on between the two questions, so that is asked a few times.
    """
    try:
        bare = 0
        for _ in range(EXEC_ASKED):
            if environ := _told(pid, "environ"):
                return environ
            bare += bool(_told(pid, "cmdline"))
            if bare == EXEC_MET:
                break
            time.sleep(0.001)
    except OSError:
        pass  # it has ended, or is not ours to ask
    return b""


def _told(pid: int, what: str) -> bytes:
    with open(f"/proc/{pid}/{what}", "rb") as file:
        return file.read()


def signal_all(pids: list[int], number: int) -> None:
    """Send it to each; who is gone is gone."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_family(spare: Callable[[Member], bool], reap: Callable[[], None], *, within_s: float = 2.0) -> int:
    """Kill every descendant that is not spared, until there is none; returns how many there were at first.

    All are stopped before any is killed, or a fast forker outruns the loop. Bounded: what is left after
    `within_s` is the guest's to end.
    """
    first: set[int] = set()
    deadline = time.monotonic() + within_s
    while True:
        rest = [member.pid for member in family(os.getpid()) if not spare(member)]
        if not rest:
            return len(first)
        first = first or set(rest)
        signal_all(rest, signal.SIGSTOP)
        signal_all(rest, signal.SIGKILL)
        reap()
        if time.monotonic() > deadline:
            return len(first)
        time.sleep(0.002)
