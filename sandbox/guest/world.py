"""What PID 1 can do to the processes around it. `testing.py` has the other world, where the guest is nobody special."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sandbox.guest.cgroup import Cgroup, full_places

if TYPE_CHECKING:
    from sandbox.guest.serve import Guest

PR_SET_DUMPABLE = 4
STOP_S = 1.0

Ended = tuple[int, int, "os.struct_rusage"]  # type: ignore[name-defined,unused-ignore]


class PidOne:
    """All processes of the container are ours: nothing outlives a command unless another live command owns it."""

    def __init__(self) -> None:
        self._cgroup = Cgroup()

    def path(self, path: str) -> str:
        """Where an inside path really is."""
        return path

    def argument(self, argument: str) -> str:
        """How a program sees one of its arguments."""
        return argument

    def step(self, _guest: Guest, what: str) -> None:
        """A transaction is about to change something. Whoever wants to end us here kills the container."""

    def harden(self) -> None:
        """Nobody inside may trace us, read our memory or open our descriptors.

        Signals need no handlers: the kernel drops every signal without one for PID 1, SIGKILL included. SIGINT is the
        exception Python makes. Ignoring instead of defaulting would be inherited by every child.
        """
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_DUMPABLE refused")

    def adopt(self, _guest: Guest, pid: int) -> None:
        """A child was started: the kernel's memory killer takes it before us."""
        try:
            fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return  # it already ended
        try:
            os.write(fd, b"1000")
        except OSError:
            pass  # same
        finally:
            os.close(fd)

    def reap(self, leaders: Iterable[int]) -> list[Ended]:
        """Collect every child that ended, ours or adopted; returns those that are leaders."""
        known = set(leaders)
        ended: list[Ended] = []
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            if os.WIFSTOPPED(status):  # only a tracee stops for us, and we trace nobody on purpose
                _signal(pid, signal.SIGKILL)
            elif pid in known:
                ended.append((pid, status, usage))

    def sweep(self, live: Iterable[int]) -> None:
        """Kill whatever no live leader owns by descent or session.

        A daemon that a *live* command double-forked away counts as nobody's and goes too: better that than letting
        a finished command leave something behind.
        """
        keep = set(live)
        if not keep:
            _signal(-1, signal.SIGKILL)  # atomic: a fork storm cannot outrun it
            return
        for _ in range(50):
            strays = _strays(keep)
            if not strays:
                return
            for pid in strays:
                _signal(pid, signal.SIGKILL)

    def stop_all(self) -> None:
        """Every other process has stopped, until `go_all`.

        The signal alone is not enough: a write or rename under way when it arrives is still finished. Who waits for a child of
        `vfork` never stops, so the wait is bounded.
        """
        _signal(-1, signal.SIGSTOP)
        deadline = time.monotonic() + STOP_S
        while moving(name for name in os.listdir("/proc") if name.isdigit() and name != "1") and time.monotonic() < deadline:
            time.sleep(0.0005)

    def kill_all(self) -> None:
        """Every other process ends."""
        _signal(-1, signal.SIGKILL)

    def kill_others(self, spared: Iterable[int]) -> None:
        """End everything but these and ourselves."""
        keep = set(spared)
        for name in os.listdir("/proc"):
            if name.isdigit() and name != "1" and int(name) not in keep:
                _signal(int(name), signal.SIGKILL)

    def go_all(self) -> None:
        """They go on."""
        _signal(-1, signal.SIGCONT)

    def signal_session(self, leader: int, number: int) -> None:
        """Signal the leader's process group; `sweep` takes whatever left the group."""
        try:
            os.killpg(leader, number)
        except OSError:
            pass

    def counters(self) -> tuple[int, int]:
        """The kernel's kills for memory, and its refusals of one more process, in this container so far."""
        return self._cgroup.kills(), self._cgroup.refused_forks()

    def in_use(self) -> tuple[int, int]:
        """Memory in bytes and processes with their threads, of the whole container, now."""
        return self._cgroup.number("memory"), self._cgroup.number("pids")

    def limits(self) -> tuple[int, int]:
        """The most that `in_use` can be; 0 where that is unknown."""
        return self._cgroup.number("memory_limit"), self._cgroup.number("pids_limit")

    def full(self) -> list[str]:
        """Writable places that are full."""
        return full_places()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass


def moving(pids: Iterable[str]) -> bool:
    """Whether any thread of these processes can still do something."""
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/stat", "rb") as stat:
                    if stat.read().rpartition(b")")[2].split(None, 1)[0] not in (b"T", b"t", b"Z", b"X"):
                        return True
        except OSError:
            continue  # it ended
    return False


def _strays(keep: set[int]) -> list[int]:
    """Living processes that are neither leaders, nor descend from one, nor share a session with one."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] in (b"Z", b"X"):
            continue
        parents[int(name)] = int(fields[1])
        sessions[int(name)] = int(fields[3])
    strays = []
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor not in keep and sessions.get(ancestor) not in keep:
            ancestor = parents[ancestor]
        if ancestor not in parents:
            strays.append(pid)
    return strays
