"""A sandbox without a container, for tests of what stands above: the same guest, run by a thread of this process.

It passes the contract suite that the real engines pass, and gives NO isolation: commands are children of this process
with the caller's rights. Inside paths are mapped below a folder; `cwd`, file operations and arguments that begin with a
mounted path are mapped, text inside shell commands is not, so commands should use relative paths.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import anyio.to_thread

from sandbox.box import Sandbox
from sandbox.engines.base import EngineFacts, ImageFacts, Link
from sandbox.engines.stream import RawStream
from sandbox.errors import EngineError, ImageMissing
from sandbox.guest.serve import Guest
from sandbox.guest.task import Killed
from sandbox.guest.world import STOP_S, moving
from sandbox.plan import Plan

if TYPE_CHECKING:
    from sandbox.guest.world import Ended


class FakeEngine:
    """An engine of threads. `missing` names images that it pretends not to have.

    `dies` is asked before every change that a transaction makes, with a word for it; at the first True the guest ends there, as
    if it had been killed.
    """

    def __init__(self, folder: Path, *, missing: Iterable[str] = (), dies: Callable[[str], bool] | None = None) -> None:
        self.folder = folder
        self.started: list[Plan] = []
        """Every plan that was started, in order: what a test inspects instead of containers."""
        self.running = 0
        self._missing = frozenset(missing)
        self._dies = dies
        self._numbers = itertools.count(1)

    async def facts(self) -> EngineFacts:
        """Honest about being nothing."""
        return EngineFacts(
            name="fake",
            version="0",
            api="0",
            kernel="",
            cgroups="",
            cpus=os.cpu_count() or 1,
            memory_bytes=0,
            security=(),
            isolates=False,
        )

    async def image(self, name: str) -> ImageFacts:
        """Every image exists but the missing ones."""
        if name in self._missing:
            raise ImageMissing(f"image {name} is not on this engine; build ours with `massgen images build`", op="image")
        return ImageFacts(id="fake")

    def images(self) -> NoReturn:
        """Nothing can be prepared on the caller's own machine without changing it."""
        raise EngineError("the fake engine prepares no images", op="prepare")

    async def start(self, plan: Plan) -> Link:
        """A guest in a thread."""
        self.started.append(plan)
        number = next(self._numbers)
        root = self.folder / f"box{number}"
        world = Nobody(_mapping(plan, root), self._dies)
        ours, theirs = socket.socketpair()
        guest_in, guest_out = os.dup(theirs.fileno()), os.dup(theirs.fileno())
        theirs.close()
        link = FakeLink(self, f"fake{number}", RawStream(ours), root)
        self.running += 1
        threading.Thread(target=link.serve, args=(guest_in, guest_out, world), daemon=True).start()
        return link

    async def sweep(self, folder: Path, image: str) -> None:
        """Nothing here ever belongs to somebody else."""

    async def alive(self) -> bool:
        """It lives in this process."""
        return True

    async def reap(self) -> tuple[str, ...]:
        """Threads die with their process."""
        return ()


def _mapping(plan: Plan, root: Path) -> dict[str, str]:
    """Inside path → real path: binds are themselves, memory mounts are folders of ours."""
    mapping = {"/": str(root)}
    for memory in plan.tmpfs:
        place = root / memory.target.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        mapping[memory.target] = str(place)
    for bind in plan.binds:
        mapping[bind.target] = bind.source
    return mapping


class Nobody:
    """The world of a guest that is not PID 1: it knows its own children and their sessions, nothing more."""

    def __init__(self, mapping: dict[str, str], dies: Callable[[str], bool] | None = None) -> None:
        self._dies = dies
        self._mapping = sorted(mapping.items(), key=lambda item: len(item[0]), reverse=True)
        self._started: set[int] = set()

    def path(self, path: str) -> str:
        """The longest mounted prefix decides."""
        for target, real in self._mapping:
            if path == target or path.startswith(target.rstrip("/") + "/"):
                return real + path[len(target.rstrip("/")) :]
        return path

    def step(self, guest: Guest, what: str) -> None:
        """End the guest here when the test says so: no cleaning up, no word to the host."""
        if self._dies is not None and self._dies(what):
            guest.end()
            raise Killed

    def argument(self, argument: str) -> str:
        """Only arguments that begin with a mounted path are paths for us; programs of the host stay what they are."""
        if not argument.startswith("/"):
            return argument
        target, _ = next(item for item in self._mapping if argument == item[0] or argument.startswith(item[0].rstrip("/") + "/"))
        return argument if target == "/" else self.path(argument)

    def adopt(self, guest: Guest, pid: int) -> None:
        """Wake the guest when this child ends; SIGCHLD belongs to the test process."""
        self._started.add(pid)

        def ended(fd: int) -> None:
            guest.forget(fd)
            os.close(fd)

        guest.watch_read(os.pidfd_open(pid), ended)

    def reap(self, leaders: Iterable[int]) -> list[Ended]:
        """Only children that are ours by number."""
        ended: list[Ended] = []
        for leader in leaders:
            pid, status, usage = os.wait4(leader, os.WNOHANG)
            if pid:
                ended.append((pid, status, usage))
        return ended

    def sweep(self, live: Iterable[int]) -> None:
        """Kill the sessions of ended leaders. What left its session gets away: see the module's first lines."""
        for leader in self._started - set(live):
            self._started.discard(leader)
            for pid in _session(leader):
                _signal(pid, signal.SIGKILL)

    def stop_all(self) -> None:
        """Our sessions have stopped."""
        pids = [pid for leader in self._started for pid in _session(leader)]
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        deadline = time.monotonic() + STOP_S
        while moving(map(str, pids)) and time.monotonic() < deadline:
            time.sleep(0.0005)

    def go_all(self) -> None:
        """They go on."""
        for leader in self._started:
            for pid in _session(leader):
                _signal(pid, signal.SIGCONT)

    def signal_session(self, leader: int, number: int) -> None:
        """Signal one process group."""
        try:
            os.killpg(leader, number)
        except OSError:
            return

    def counters(self) -> tuple[int, int]:
        """No limits, no kills, no refusals."""
        return 0, 0

    def in_use(self) -> tuple[int, int]:
        """The machine's use is not ours."""
        return 0, 0

    def limits(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    def full(self) -> list[str]:
        """The host's disks are not ours either."""
        return []


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return


def _session(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


class FakeLink:
    """A socket pair with a guest thread at its other end."""

    def __init__(self, engine: FakeEngine, container: str, stream: RawStream, root: Path) -> None:
        self.container = container
        self._engine = engine
        self._stream = stream
        self._root = root
        self._words = ""
        self._ended = threading.Event()
        self._closed = False

    def serve(self, stdin: int, stdout: int, world: Nobody) -> None:
        """The thread."""
        guest = Guest(stdin, stdout, world)
        try:
            guest.serve()
        except Exception as error:  # noqa: BLE001 - the last words of the fake container, whatever they are
            self._words = f"guest: {type(error).__name__}: {error}"
        finally:
            guest.close()
            for leader in list(world._started):  # noqa: SLF001 - the two classes are one fake
                for pid in _session(leader):
                    _signal(pid, signal.SIGKILL)
                try:
                    os.waitpid(leader, 0)
                except ChildProcessError:
                    continue
            os.close(stdin)
            os.close(stdout)
            self._ended.set()

    def offer(self, data: bytes | memoryview) -> int:
        """Bytes for the guest, as many as fit."""
        return self._stream.offer(data)

    async def send(self, data: bytes | memoryview) -> None:
        """Bytes for the guest."""
        await self._stream.send(data)

    async def pump(self, take: Callable[[bytes | memoryview], None]) -> None:
        """Frames of the guest."""
        await self._stream.pump(take)

    def last_words(self) -> str:
        """Why the thread ended, when it was not us."""
        return self._words

    async def let_go(self, patience_s: float) -> float | None:
        """The thread ends with its stream."""
        began = time.monotonic()
        self._stream.close()
        ended = await anyio.to_thread.run_sync(self._ended.wait, patience_s)
        return time.monotonic() - began if ended else None

    async def aclose(self) -> None:
        """Hang up, wait for the thread, remove its folder."""
        if self._closed:
            return
        self._closed = True
        self._stream.hang_up()
        self._stream.close()
        await anyio.to_thread.run_sync(self._ended.wait, 10)
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._root, ignore_errors=True))
        self._engine.running -= 1


FakeSandbox = Sandbox
"""`FakeSandbox.open(spec, engine=FakeEngine(folder))`: the same class, because only the engine differs."""
