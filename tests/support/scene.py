"""A project with a run that has a result for it, and what a killed `massgen` may have left of both."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from massgen.coordination import record as records
from massgen.coordination.leases import LEASES
from massgen.coordination.record import Record
from massgen.coordination.recovery import recover
from sandbox import DockerEngine, Engine, Entry, Store
from sandbox.base import Base
from tests.support import every_change
from tests.support.boxes import of
from tests.support.killed_host import Death, Hosts

SOMEBODY = 65534


class Scene:
    """A project, a state folder with one run that has a result, and both as they were before each death."""

    def __init__(self, folder: Path, engine: Engine, image: str, processes: Hosts | None = None) -> None:
        self.folder, self.processes, self.engine = folder, processes, engine
        self.project, self.state = folder / "project", folder / "state"
        self.docker = isinstance(engine, DockerEngine)
        self.project.mkdir()
        every_change.make(self.project)
        if self.docker and os.getuid() == 0:  # for root nothing is read-only
            for place in (self.project, *self.project.rglob("*")):
                os.chown(place, SOMEBODY, SOMEBODY, follow_symlinks=False)
        store = Store(self.state / "store")
        base = Base.take([self.project], store)
        folders = (Entry(root=str(self.project), path=p, kind="dir", mode=0o755) for p in ("implicit", "implicit/deep"))
        snapshot = of(*every_change.change(store, self.project).entries, *folders)
        base.expected(snapshot)
        store.put_snapshot(snapshot)
        records.save(
            records.new_run(self.state, run_id="r1"),
            Record(
                run_id="r1",
                started="2026-01-01T00:00:00+00:00",
                prompt="go",
                image=image,
                write_mode="review",
                verify="",
                roots=(str(self.project),),
                agents=({"id": "alice", "label": "agent1"},),
                status="ready",
                winner="agent1",
                answer="agent1.1",
                snapshot=snapshot.id,
                originals=tuple(base.originals_json()),
            ),
        )
        self.keep()

    def keep(self) -> None:
        """From now on this is how it was."""
        for place in (self.project, self.state):
            shutil.rmtree(place.with_suffix(".kept"), ignore_errors=True)
            copy(place, place.with_suffix(".kept"))

    def restore(self) -> None:
        """As it was."""
        for place in (self.project, self.state):
            shutil.rmtree(place)
            copy(place.with_suffix(".kept"), place)

    def act(self, what: str, *, at_step: int = 0, at_event: int = 0) -> Death:
        """One command, killed there."""
        assert self.processes
        return self.processes.act(
            what,
            state=self.state,
            run="r1",
            at_step=at_step,
            at_event=at_event,
            boxes=str(self.folder / "boxes"),
            engine="docker" if self.docker else "fake",
        )

    def record(self) -> Record:
        """What `massgen runs` and `undo` go by."""
        return records.load(self.state / "runs/r1")

    async def next_start(self) -> tuple[str, ...]:
        """What any command does first."""
        return await recover(self.state, engine=self.engine)

    def left(self) -> list[str]:
        """What should not be there after it."""
        temporary = [p for p in self.state.rglob(".*") if p.is_file()]
        return [str(p) for p in (*self.project.rglob(".massgen*"), *(self.state / LEASES).glob("*"), *temporary)]


def copy(source: Path, target: Path) -> None:
    """With owners, modes and links."""
    shutil.copytree(source, target, symlinks=True)
    for place in (source, *source.rglob("*")):
        about = place.lstat()
        os.chown(target / place.relative_to(source), about.st_uid, about.st_gid, follow_symlinks=False)
