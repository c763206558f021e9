"""Host processes that die by SIGKILL in the middle of a write: at a step inside, or at an event outside.

Steps are counted. Events are, too, or are named, where others may come and go before the one that is meant.

One process has everything imported and forks for each death, so that hundreds of them are cheap. On the fake engine the guest is
a thread of the host, and both go at the step. On Docker the guest is the product's own with another world, in which the nth
step never returns, and the host is killed when its container says so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio

from massgen import app
from massgen.config.load import Flags, load
from massgen.coordination import later, recovery
from massgen.coordination.risks import CLASSES
from massgen.events.codec import Envelope
from sandbox import DockerEngine, Engine, Link
from sandbox.facts import guest_zip
from sandbox.plan import GUEST, Plan
from sandbox.testing import FakeEngine
from tests.support.user import BOUND, ROOT
from tests.support.wrapped import Wrapped

LEASE = "LeaseGranted"
GUEST_MAIN = """
import sys, time
from sandbox.guest.main import main
from sandbox.guest.world import PidOne

class Dying(PidOne):
    steps = 0
    def step(self, guest, what):
        self.steps += 1
        sys.stderr.write(".")
        sys.stderr.flush()
        while self.steps == {at}:
            time.sleep(60)

main(Dying())
"""


@dataclass(frozen=True, kw_only=True)
class Death:
    """How one host ended."""

    killed: bool
    steps: int
    """Of the guest, when the host lived to its end."""
    said: str
    """Why it ended, when it was an error."""


Moment = tuple[str, int]
"""The nth event of a name, counted from the first lease on."""


def moments(events: Sequence[str]) -> list[Moment]:
    """Each event from the lease on, by its name: how many came before it is no fact of the run."""
    seen: Counter[str] = Counter()
    found: list[Moment] = []
    for name in events[events.index(LEASE) :]:
        seen[name] += 1
        found.append((name, seen[name]))
    return found


class Hosts:
    """Runs one act of massgen in a process of its own, to its end or to its death."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def act(self, what: str, *, state: Path, at_step: int = 0, at_event: int | Moment = 0, **more: Any) -> Death:
        """`what`: apply, undo, redo, recover, run. Steps and events are counted from 1; 0: never."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"what": what, "state": str(state), "at_step": at_step, "at_event": at_event, **more}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Death(**json.loads(self._process.stdout.readline()))


@contextmanager
def hosts() -> Iterator[Hosts]:
    """The process that they are forked from."""
    process = subprocess.Popen(
        [*BOUND, sys.executable, "-m", "tests.support.killed_host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        yield Hosts(process)
    finally:
        process.communicate(timeout=60)


# -- in the process itself ----------------------------------------------------------------------------------------------


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Fake(FakeEngine):
    """Dies at a step of whichever guest."""

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__(folder, dies=self._count)
        self.steps, self._at = 0, at

    def _count(self, _what: str) -> bool:
        self.steps += 1
        if self.steps == self._at:
            _die()
        return False


class _Docker(Wrapped):
    """The real engine, with our world in the guests of leases of one purpose."""

    def __init__(self, inner: DockerEngine, folder: Path, at: int, purpose: str) -> None:
        super().__init__(inner)
        self._at, self._purpose = at, purpose
        self._guest = _dying_guest(folder, at)
        self._links: list[Link] = []

    @property
    def steps(self) -> int:
        return sum(link.last_words().count(".") for link in self._links)

    async def start(self, plan: Plan) -> Link:
        if plan.lease is None or plan.lease.purpose != self._purpose:
            return await self.inner.start(plan)
        binds = tuple(replace(b, source=str(self._guest)) if b.target == GUEST else b for b in plan.binds)
        link = await self.inner.start(replace(plan, binds=binds))
        self._links.append(link)
        if self._at:
            threading.Thread(target=self._watch, daemon=True).start()
        return link

    def _watch(self) -> None:
        while self.steps < self._at:
            time.sleep(0.001)
        _die()


def _dying_guest(folder: Path, at: int) -> Path:
    """The product's guest with another `__main__`."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"guest-{at}.zip"
    if not place.exists():
        with zipfile.ZipFile(guest_zip(folder)) as ours, zipfile.ZipFile(place, "w") as theirs:
            for name in ours.namelist():
                content = GUEST_MAIN.format(at=at).encode() if name == "__main__.py" else ours.read(name)
                theirs.writestr(name, content)
        place.chmod(0o444)
    return place


async def _act(job: dict[str, Any]) -> int:
    state, events = Path(job["state"]), 0
    leased: list[str] = []

    def reader(envelope: Envelope) -> None:
        nonlocal events
        events += 1
        name = type(envelope.event).__name__
        if leased or name == LEASE:
            leased.append(name)
        if events == job["at_event"] or [name, leased.count(name)] == job["at_event"]:
            _die()

    engine: Engine
    if job.get("engine") == "docker":
        purpose = {"redo": "apply", "run": "direct"}.get(job["what"], job["what"])
        engine = _Docker(await DockerEngine.connect(), Path(job["boxes"]), job["at_step"], job.get("purpose", purpose))
    else:
        engine = _Fake(Path(job["boxes"]), job["at_step"])
    run = str(job.get("run", ""))
    acts: dict[str, Callable[[], Any]] = {
        "apply": lambda: later.apply(state, run, engine=engine, allowed=frozenset(CLASSES), readers=[reader]),
        "undo": lambda: later.undo(state, run, engine=engine, readers=[reader]),
        "redo": lambda: later.undo(state, run, engine=engine, redo=True, readers=[reader]),
        "recover": lambda: recovery.recover(state, engine=engine),
        "run": lambda: app.run(
            load(Flags(config=job["config"], write_mode=job["write_mode"])),
            "go",
            engine=engine,
            readers=[reader],
            state_dir=state,
        ),
    }
    await acts[job["what"]]()
    return engine.steps


def _child(job: dict[str, Any], out: int) -> None:
    """One act; its last word goes into a pipe, which a death leaves empty."""
    os.setsid()
    os.dup2(2, 1)
    said = {"steps": 0, "said": ""}
    try:
        if "cwd" in job:
            os.chdir(job["cwd"])
        said["steps"] = anyio.run(_act, job)
    except Exception as error:  # noqa: BLE001 - the test decides what it makes of it
        said["said"] = f"{type(error).__name__}: {error}"
        if job.get("loud"):
            traceback.print_exc()
    os.write(out, json.dumps(said).encode())
    os._exit(0)


def _serve() -> None:
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            _child(json.loads(line), write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        answer = {"steps": 0, "said": f"ended with status {status}", **(json.loads(said) if said else {}), "killed": killed}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
