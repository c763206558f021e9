"""massgen killed while it writes: after the next start the project is all old or all new, and nothing is left of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from massgen import app
from massgen.config.load import Flags, load
from massgen.coordination import later
from massgen.coordination import record as records
from massgen.coordination.leases import LEASES
from massgen.coordination.recovery import recover
from massgen.coordination.risks import CLASSES
from massgen.events.replay import read
from sandbox import DockerEngine, Engine
from sandbox.testing import FakeEngine
from tests.docker.engine_view import labelled
from tests.support.boxes import picture, until
from tests.support.killed_host import Death, Hosts, Moment, hosts, moments
from tests.support.scene import SOMEBODY, Scene
from tests.support.user import agent, say


@pytest.fixture(scope="module")
def processes() -> Iterator[Hosts]:
    """Hosts to kill."""
    with hosts() as opened:
        yield opened


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
    scene = Scene(tmp_path, FakeEngine(tmp_path / "boxes"), image, processes)
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


@pytest.mark.docker
@pytest.mark.parametrize("what", ["apply", "undo"])
@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
async def test_a_host_killed_while_a_container_writes_leaves_half_of_it(
    tmp_path: Path, processes: Hosts, image: str, what: str, every: int
) -> None:
    """The same with a real container, which the engine ends: at every eighth change, or at every one; nothing is left of it."""
    scene = Scene(tmp_path, await DockerEngine.connect(), image, processes)
    before, after = await prepared(scene, what)
    ends: list[bool] = []
    while True:
        scene.restore()
        death = scene.act(what, at_step=len(ends) * every + 2)
        assert death.killed or not death.said, death.said
        ends.append(await check(scene, what, before, after, f"step {len(ends) * every + 2}", way_back=len(ends) % 4 == 0))
        assert labelled("massgen.run=r1") == []
        if not death.killed:
            break
    assert len(ends) > 40 / every
    assert ends == sorted(ends)
    assert set(ends) == {True, False}


Mode = Literal["apply", "direct"]
TURN = "echo direct > code.txt; echo more > more.txt; rm gone.txt"


class RunScene:
    """A run whose final turn changes more, in mode `direct` in the project itself, which belongs to somebody."""

    def __init__(self, folder: Path, processes: Hosts, mode: Mode = "direct", engine: str = "docker") -> None:
        self.folder, self.processes, self.mode, self.engine = folder, processes, mode, engine
        self.project = folder / "project"
        self.state = folder / "state"
        team = {
            "agents": [agent("one", str(folder / "one.json"))],
            "orchestrator": {"context_paths": [{"path": str(self.project), "permission": "write"}]},
        }
        turn = {"when": {"phase": "final"}, "calls": [{"name": "shell", "args": {"command": TURN}}]}
        script = [say(shell="echo draft > code.txt; mkdir d; echo x > d/x"), say(answer="done"), say(vote="$own"), turn]
        (folder / "team.json").write_text(json.dumps(team))
        (folder / "one.json").write_text(json.dumps([*script, say(final="done")]))

    def restore(self) -> None:
        """A project, and no run."""
        for place in (self.project, self.state):
            shutil.rmtree(place, ignore_errors=True)
        self.project.mkdir()
        for name in ("code.txt", "gone.txt"):
            (self.project / name).write_text("old\n")
        # On the fake engine everybody is root, whose files are root's; `direct` asks for the folder.
        for place in (self.project, *(self.project.iterdir() if self.engine == "docker" else ())):
            os.chown(place, SOMEBODY, SOMEBODY)

    def run(self, *, at_step: int = 0, at_event: int | Moment = 0) -> Death:
        """The run, killed there."""
        return self.processes.act(
            "run",
            state=self.state,
            at_step=at_step,
            at_event=at_event,
            boxes=str(self.folder / "boxes"),
            engine=self.engine,
            purpose=self.mode,
            config=str(self.folder / "team.json"),
            write_mode=self.mode,
            cwd=str(self.folder),
        )

    async def resume(self, engine: Engine) -> app.RunResult:
        """Go on with what was killed."""
        config = load(Flags(config=str(self.folder / "team.json"), write_mode=self.mode))
        return await app.resume(config, "", engine=engine, state_dir=self.state)

    def events(self) -> list[str]:
        """What the run said, by name."""
        (log,) = self.state.glob("runs/*/events.jsonl")
        return [type(envelope.event).__name__ for envelope in read(log)]


@pytest.mark.docker
@pytest.mark.skipif(os.getuid() != 0, reason="projects of somebody else are made by root")
@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
async def test_a_host_killed_while_the_final_agent_works_in_the_project_leaves_half_of_it(
    tmp_path: Path, processes: Hosts, every: int
) -> None:
    """Mode `direct`, at changes of the placing and at events from the lease on: as before, or all of it; `undo` knows which."""
    scene = RunScene(tmp_path, processes)
    engine = await DockerEngine.connect()
    scene.restore()
    before = picture(scene.project)
    whole = scene.run()
    assert not whole.said
    after, events = picture(scene.project), scene.events()
    assert after["code.txt"][2] == "direct\n"
    deaths: list[dict[str, Any]] = [{"at_step": n} for n in range(2, whole.steps + 1, every)]
    turn = ("ToolFinished", 1)
    deaths += [{"at_event": moment} for moment in moments(events) if every == 1 or moment == turn]
    assert {"at_event": turn} in deaths
    for moment in deaths:
        scene.restore()
        assert scene.run(**moment).killed, moment
        (run,) = [place.name for place in scene.state.glob("runs/*")]
        said = await recover(scene.state, engine=engine)
        record = records.load(scene.state / "runs" / run)
        assert picture(scene.project) == (after if record.written else before), (moment, said)
        assert list((scene.state / LEASES).glob("*")) == []
        await until(lambda run=run: not labelled(f"massgen.run={run}"))
        if moment.get("at_event") == turn:
            await later.undo(scene.state, run, engine=engine, redo=True)
            assert (scene.project / "more.txt").read_text() == "more\n"
        if moment.get("at_event") == turn or record.written:
            await later.undo(scene.state, run, engine=engine)
            assert picture(scene.project) == before, moment


@pytest.mark.skipif(os.getuid() != 0, reason="projects of somebody else are made by root")
@pytest.mark.parametrize("where", ["fake", pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow])])
@pytest.mark.parametrize("mode", ["apply", "direct"])
async def test_a_run_that_died_while_it_wrote_comes_to_another_end(
    tmp_path: Path, processes: Hosts, mode: Mode, where: str
) -> None:
    """At every step of its lease: resumed, it has the same winner and the same bytes, and one undo takes all of it back."""
    scene = RunScene(tmp_path, processes, mode, where)
    engine = await DockerEngine.connect() if where == "docker" else FakeEngine(tmp_path / "boxes")
    scene.restore()
    before = picture(scene.project)
    whole = scene.run()
    assert not whole.said
    after = picture(scene.project)
    assert (before["code.txt"][2], after["code.txt"][2], after["more.txt"][2]) == ("old\n", "direct\n", "more\n")
    assert whole.steps > 10
    for step in range(1, whole.steps + 1):
        scene.restore()
        assert scene.run(at_step=step).killed, step
        assert scene.events().count("AnswerGiven") == 1
        ended = await scene.resume(engine)
        assert (ended.outcome, ended.winner) == ("applied", "one"), step
        assert picture(scene.project) == after, step
        assert scene.events().count("AnswerGiven") == 1, step
        assert list((scene.state / LEASES).glob("*")) == []
        if where == "docker":  # those of the killed host end in the engine's own time
            await until(lambda run=ended.run_id: not labelled(f"massgen.run={run}"))
        await later.undo(scene.state, ended.run_id, engine=engine)
        assert picture(scene.project) == before, step
