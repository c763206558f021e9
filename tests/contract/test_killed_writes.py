"""massgen killed while it writes: after the next start the project is all old or all new, and nothing is left of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from massgen.coordination import later
from massgen.coordination import record as records
from massgen.coordination.leases import LEASES
from massgen.coordination.record import Record
from massgen.coordination.recovery import recover
from massgen.coordination.risks import CLASSES
from sandbox import DockerEngine, Engine, Entry, Store
from sandbox.base import Base
from sandbox.testing import FakeEngine
from tests.support import every_change
from tests.support.boxes import of, picture
from tests.support.killed_host import Death, Hosts, hosts

SOMEBODY = 65534


@pytest.fixture(scope="module")
def processes() -> Iterator[Hosts]:
    """Hosts to kill."""
    with hosts() as opened:
        yield opened


class Scene:
    """A project, a state folder with one run that has a result, and both as they were before each death."""

    def __init__(self, folder: Path, processes: Hosts, engine: Engine, image: str) -> None:
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


async def prepared(scene: Scene, what: str) -> tuple[object, object]:
    """The scene just before an act; the project before it and after it."""
    for earlier in {"apply": (), "undo": ("apply",), "redo": ("apply", "undo")}[what]:
        assert scene.act(earlier).said == ""
    scene.keep()
    before = picture(scene.project)
    assert scene.act(what).said == ""
    after = picture(scene.project)
    assert before != after
    return before, after


async def check(scene: Scene, what: str, before: object, after: object, at: str, *, way_back: bool) -> bool:
    """The next start, and (it takes half of the time) what every user would do then; whether the act was finished."""
    said = await scene.next_start()
    now = picture(scene.project)
    assert now in (before, after), at
    done = now == after
    assert scene.left() == [], at
    written = what != "undo" if done else what == "undo"
    assert (scene.record().written is not None) is written, at
    assert len(said) <= 1, (at, said)
    if not way_back:
        return done
    again = {"apply": "undo", "undo": "redo", "redo": "undo"}[what] if done else what
    if again == "apply":
        await later.apply(scene.state, "r1", engine=scene.engine, allowed=frozenset(CLASSES))
    else:
        await later.undo(scene.state, "r1", engine=scene.engine, redo=again == "redo")
    assert picture(scene.project) == (before if done else after), at
    assert scene.left() == [], at
    return done


@pytest.mark.parametrize("what", ["apply", "undo", pytest.param("redo", marks=pytest.mark.slow)])
async def test_a_host_killed_at_any_step_of_a_write_leaves_half_of_it(
    tmp_path: Path, processes: Hosts, image: str, what: str
) -> None:
    """At every single change that the lease makes, and at every event before and after: old or new, and the way back works."""
    scene = Scene(tmp_path, processes, FakeEngine(tmp_path / "boxes"), image)
    before, after = await prepared(scene, what)
    for kind in ("at_step", "at_event"):
        ends = []
        while True:
            scene.restore()
            death = scene.act(what, **{kind: len(ends) + 1})
            assert death.killed or not death.said, death.said
            way_back = kind == "at_event" or len(ends) % 6 == 0
            ends.append(await check(scene, what, before, after, f"{kind} {len(ends) + 1}", way_back=way_back))
            if not death.killed:
                break
        assert len(ends) > (40 if kind == "at_step" else 4), ends
        assert set(ends) == {True, False}
        assert ends == sorted(ends), "what was finished once is finished from there on"
