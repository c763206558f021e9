"""A run that is killed after any event whatsoever, and gone on with: the same winner, the same bytes, nobody asked twice."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from massgen import app
from massgen.agent.view import Answered, Decision, Presented
from massgen.config.model import AgentConfig, Config, ContextPath, Timeouts
from massgen.coordination import tidy
from massgen.coordination.later import undo
from massgen.coordination.relive import read_past, relive
from massgen.coordination.state import Rules, replay, start
from massgen.errors import ConfigError
from massgen.events.codec import Envelope
from massgen.events.replay import facts, read
from massgen.events.types import (
    AgentExcluded,
    AnswerGiven,
    Applied,
    DebateStarted,
    LookFailed,
    LookStarted,
    Notice,
    RunFinished,
    RunResumed,
    SandboxEnded,
    SandboxStarted,
    Selected,
    Verified,
)
from massgen.events.types import (
    Presented as PresentedEvent,
)
from sandbox import EngineUnavailable, owner
from sandbox.engines.base import Link
from sandbox.plan import Plan
from sandbox.testing import FakeEngine
from tests.contract.test_app_fake import END, agent
from tests.support.deaths import Deaths
from tests.support.scripted_run import Play, Run, Turn, contents
from tests.support.user import snapshot_of

LABELS = ("agent1", "agent2", "agent3")
DEAD = f"999999:1:{owner.boot()}:{owner.namespace()}"
"""The owner of a run whose process is gone."""


class Team:
    """Three agents that answer once, each vote for themselves, and after a debate all for the second."""

    def __init__(self) -> None:
        self.looks: list[tuple[str, str | None]] = []
        """Who was asked in coordination, and its own answer at that moment."""

    def plays(self) -> dict[str, Play]:
        """For a `Run`."""
        return {label: self._play(label) for label in LABELS}

    def _play(self, label: str) -> Play:
        async def play(turn: Turn) -> Decision:
            if turn.view.phase == "final":
                await turn.write("final.txt", "tidied up\n")
                return Presented(text="done")
            self.looks.append((label, turn.view.own))
            if turn.view.own is None:
                await turn.write("code.txt", f"fixed by {label}\n")
                await turn.shell(f"mkdir -p sub && echo x > sub/{label} && chmod 755 sub/{label}")
                return Answered(text=f"the answer of {label}")
            return turn.vote("agent2" if turn.view.votes else label)

        return play


async def test_killed_after_any_event_a_run_comes_to_the_same_end(
    make: Callable[..., Run], project: Path, tmp_path: Path
) -> None:
    """Every boundary of a whole run (verify, debate, final turn, lease), the next line torn: winner and bytes as undisturbed."""
    team = Team()
    run = make(team.plays(), verify="grep -q fixed code.txt", rules=Rules(consensus=0.6))
    deaths = Deaths(kept=tmp_path / "kept", state=run.state_dir, project=project)
    run.on_envelope = deaths
    ended = await run.go()
    assert (ended.outcome, ended.winner) == ("applied", "agent2")
    wanted, engine = snapshot_of(project), run.engine
    assert wanted["code.txt"][2] == b"fixed by agent2\n"
    run.on_envelope = lambda _: None
    assert len(set(deaths.lines)) >= 14, "the run has to have something of everything"
    for number, line in enumerate(deaths.lines):
        run.run_dir = deaths.put_back(number, run.run_dir.name)
        before = read_past(tuple(read(run.run_dir / "events.jsonl")))
        stood = relive(start(LABELS, Rules(verify=True, consensus=0.6)), before)
        team.looks.clear()
        ended = await run.resume()
        where = f"killed after event {number} ({line})"
        assert (ended.outcome, ended.winner) == ("applied", "agent2"), where
        assert snapshot_of(project) == wanted, where
        assert engine.running == 0, where
        _check_log(run, where)
        answered = {fact.agent for fact in before.answers}
        assert not [label for label, own in team.looks if own is None and label in answered], f"{where}: asked twice"
        if stood.state.ended:
            assert not team.looks, f"{where}: it had been decided"


def _check_log(run: Run, where: str) -> None:
    envelopes = list(read(run.run_dir / "events.jsonl"))
    rules = Rules(verify=True, consensus=0.6)
    assert replay(start(LABELS, rules), facts(envelopes)) == run.live, where
    answers = Counter(event.answer for event in run.of(AnswerGiven))
    assert answers == Counter(f"{label}.1" for label in LABELS), where
    once = [event.answer for event in run.of(Verified) if event.answer != "final"]
    assert sorted(once) == ["agent1.1", "agent2.1", "agent3.1", "base"], where
    assert [len(run.of(kind)) for kind in (DebateStarted, Selected, PresentedEvent, Applied)] == [1, 1, 1, 1], where
    assert len(run.of(SandboxStarted)) == len(run.of(SandboxEnded)), where


def owned_by_a_user(project: Path) -> None:
    """Not root's."""
    if os.geteuid() == 0:
        os.chown(project, 1000, 1000)


async def test_killed_after_any_event_of_a_direct_final_turn(make: Callable[..., Run], project: Path, tmp_path: Path) -> None:
    """The final turn works in the project itself: killed anywhere, the result is whole, and one undo takes all of it back."""
    owned_by_a_user(project)  # the mode is refused for root's projects
    team = Team()
    run = make(team.plays(), write_mode="direct", rules=Rules(consensus=0.6))
    deaths = Deaths(kept=tmp_path / "kept", state=run.state_dir, project=project)
    before = contents(project)
    run.on_envelope = deaths
    first = await run.go()
    assert first.outcome == "applied", first.message
    wanted = contents(project)
    run.on_envelope = lambda _: None
    for number, line in enumerate(deaths.lines):
        run.run_dir = deaths.put_back(number, run.run_dir.name)
        owned_by_a_user(project)
        ended = await run.resume()
        where = f"killed after event {number} ({line})"
        assert (ended.outcome, ended.winner) == ("applied", "agent2"), where
        assert contents(project).items() <= wanted.items(), where
        assert contents(project)["code.txt"] == "fixed by agent2\n", where
        await undo(run.state_dir, run.run_dir.name, engine=run.engine)
        assert contents(project) == before, where


async def test_who_had_voted_rests_until_there_is_something_to_look_at(make: Callable[..., Run]) -> None:
    """Two have voted and the third is killed in its look: it alone gets a container and is asked again, and that is said."""
    team = Team()
    run = make(team.plays(), write_mode="review")
    kept = run.folder / "kept"

    def reader(envelope: Envelope) -> None:
        past = read_past(tuple(read(run.run_dir / "events.jsonl")))
        state = relive(start(LABELS), past).state
        voted = {m.label for m in state.members if m.status == "voted"}
        if (len(state.latest), len(voted)) == (3, 2) and past.looks.keys() - voted and not kept.exists():
            shutil.copytree(run.state_dir, kept, ignore=shutil.ignore_patterns(".*", "peers"))
            team.looks.append(("voted", ",".join(voted)))

    run.on_envelope = reader
    await run.go()
    voted = next(labels for who, labels in team.looks if who == "voted").split(",")
    run.on_envelope = lambda _: None
    shutil.rmtree(run.state_dir)
    shutil.copytree(kept, run.state_dir)
    team.looks.clear()
    await run.resume()
    (last,) = set(LABELS) - set(voted)
    assert team.looks == [(last, f"{last}.1")]
    resumed = run.events[next(n for n, event in enumerate(run.events) if isinstance(event, RunResumed)) :]
    assert [e.agent for e in resumed if isinstance(e, SandboxStarted) and e.role == "agent"] == [last]
    assert [e.agent for e in resumed if isinstance(e, Notice) and "looks again" in e.text] == [last]


# -- the whole product ------------------------------------------------------------------------------------------

FIX = {
    "when": {"phase": "coordination", "answers": 0},
    "calls": [
        {"name": "write_file", "args": {"path": "code.txt", "content": "fixed\n"}},
        {"name": "new_answer", "args": {"content": "I fixed it"}},
    ],
    "usage": {"input": 10, "output": 5},
}


def one(folder: Path, project: Path, **more: object) -> Config:
    """One scripted agent that fixes the bug."""
    fixer = agent(folder, "alice", [FIX, END])
    return Config(agents=(fixer,), context_paths=(ContextPath(path=project, permission="write"),), write="apply", **more)


async def test_the_product_resumes_after_any_event_but_the_last(tmp_path: Path, project: Path) -> None:
    """`app.resume` from a config, a dead owner and what is on disk: the same end each time; a finished run says what to do."""
    engine, state, config = FakeEngine(tmp_path / "boxes"), tmp_path / "state", one(tmp_path, project)
    deaths = Deaths(kept=tmp_path / "kept", state=state, project=project)
    with anyio.fail_after(60):
        done = await app.run(config, "fix it", engine=engine, readers=[deaths], state_dir=state)
    wanted, tokens = snapshot_of(project), done.usage.output_tokens
    assert (done.outcome, deaths.lines[-1]) == ("applied", "RunFinished")
    for number, line in enumerate(deaths.lines[:-1]):
        folder = deaths.put_back(number, done.run_id)
        (folder / tidy.OWNER).write_text(DEAD)
        earlier: list[Envelope] = []
        later: list[Envelope] = []
        with anyio.fail_after(60):
            again = await app.resume(config, "", engine=engine, readers=[later.append], earlier=earlier.extend, state_dir=state)
        assert (again.run_id, again.outcome, again.winner) == (done.run_id, "applied", "alice"), line
        assert snapshot_of(project) == wanted, line
        assert [*earlier, *(e for e in later if e.event.kept)] == list(read(folder / "events.jsonl")), line
        assert len(earlier) == number + 1, line
        assert again.usage.output_tokens in (tokens, 2 * tokens), line
        assert again.usage.output_tokens == tokens or "AnswerGiven" not in deaths.lines[: number + 1], f"{line}: paid twice"
    (deaths.put_back(len(deaths.lines) - 1, done.run_id, torn=False) / tidy.OWNER).write_text(DEAD)
    with pytest.raises(ConfigError, match=r"has ended \(applied\).*massgen run"):
        await app.resume(config, done.run_id, engine=engine, state_dir=state)
    with pytest.raises(ConfigError, match="no run is waiting"):
        await app.resume(config, "", engine=engine, state_dir=state)
    undone = await app.undo_run(state, done.run_id, engine=engine)
    assert undone.files == (str(project / "code.txt"),)


@pytest.fixture
async def killed(tmp_path: Path, project: Path) -> tuple[FakeEngine, Path, Config, Path]:
    """A run that died after its answer."""
    engine, state, config = FakeEngine(tmp_path / "boxes"), tmp_path / "state", one(tmp_path, project)
    deaths = Deaths(kept=tmp_path / "kept", state=state, project=project)
    done = await app.run(config, "fix it", engine=engine, readers=[deaths], state_dir=state, invocation={"flags": {}})
    folder = deaths.put_back(deaths.lines.index("AnswerGiven"), done.run_id)
    (folder / tidy.OWNER).write_text(DEAD)
    return engine, state, config, folder


Killed = tuple[FakeEngine, Path, Config, Path]


async def test_what_changed_meanwhile_is_said(killed: Killed, project: Path) -> None:
    """A deadline in the config and a file of the project: both named, no log of ours; the user's edit is not written over."""
    engine, state, config, folder = killed
    (project / ".massgen/massgen_logs").mkdir(parents=True)
    (project / ".massgen/massgen_logs/events.jsonl").write_text("the run's own\n")
    (project / "new.txt").write_text("the user's\n")
    (project / "code.txt").write_text("the user was here\n")
    changed = Config(**{**vars(config), "timeouts": Timeouts(run_s=99)})
    result = await app.resume(changed, "", engine=engine, state_dir=state)
    said = [e.event.text for e in read(folder / "events.jsonl") if isinstance(e.event, Notice)]
    assert any("orchestrator_timeout_seconds" in text for text in said)
    assert any(f"since the run began: {project}/code.txt, {project}/new.txt; agents" in text for text in said)
    assert (result.outcome, result.exit_code) == ("conflict", 5)
    assert (project / "code.txt").read_text() == "the user was here\n"


async def test_another_team_or_another_rule_is_no_resumption(killed: Killed, tmp_path: Path) -> None:
    """What the log is a function of must be as it was: said before anything happens, and the run can still be resumed."""
    engine, state, config, folder = killed
    log = (folder / "events.jsonl").read_bytes()
    for more in (
        {"verify": "true"},
        {"agents": (*config.agents, AgentConfig(id="bob", backend=config.agents[0].backend))},
        {"context_paths": ()},
    ):
        with pytest.raises(ConfigError, match="put it back to resume"):
            await app.resume(Config(**{**vars(config), **more}), "", engine=engine, state_dir=state)
        assert log.startswith((folder / "events.jsonl").read_bytes())
    assert (await app.resume(config, "", engine=engine, state_dir=state)).outcome == "applied"


async def test_two_that_resume_one_run_are_one(killed: Killed) -> None:
    """At once: one goes on, the other is told; and a start that tidies up meanwhile takes nothing from it."""
    engine, state, config, folder = killed
    outcomes: list[str] = []

    async def resume() -> None:
        try:
            outcomes.append((await app.resume(config, "", engine=engine, state_dir=state)).outcome)
        except ConfigError as error:
            assert "process" in str(error) or "no run" in str(error)  # noqa: PT017 - either may be the faster
            outcomes.append("refused")

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(resume)
    assert sorted(outcomes) == ["applied", "refused"]
    with tidy.changing_hands(folder) as ours:
        assert ours
        (folder / tidy.OWNER).write_text(DEAD)
        assert tidy.sweep(state) == ()
    assert tidy.sweep(state) == (folder.name,)


async def test_the_next_run_says_that_one_was_killed(killed: Killed, tmp_path: Path) -> None:
    """Once, with what to type."""
    engine, state, _, folder = killed
    hello = [{"calls": [{"name": "new_answer", "args": {"content": "hi"}}]}, END]
    other = Config(agents=(agent(tmp_path, "bob", hello),))
    for wanted in (1, 0):
        result = await app.run(other, "hello", engine=engine, state_dir=state)
        said = [e.event.text for e in read(result.run_dir / "events.jsonl") if isinstance(e.event, Notice)]
        assert len([text for text in said if f"massgen resume {folder.name}" in text]) == wanted


async def test_time_that_was_used_is_used(killed: Killed, project: Path) -> None:
    """A run with nothing left of its deadline ends with its best answer; more time has to be given by name."""
    engine, state, config, folder = killed
    spent = Config(**{**vars(config), "timeouts": Timeouts(run_s=0.0)})
    kept = folder.parent.parent.with_name("kept2")
    shutil.copytree(state, kept)
    assert (await app.resume(spent, "", engine=engine, state_dir=state)).exit_code == 124
    assert (project / "code.txt").read_text() == "broken\n"
    shutil.rmtree(state)
    shutil.copytree(kept, state)
    assert (await app.resume(spent, "", engine=engine, state_dir=state, timeout_s=60)).exit_code == 0
    assert [type(e.event) for e in read(folder / "events.jsonl")].count(RunFinished) == 1
    assert [e.event.answers for e in read(folder / "events.jsonl") if isinstance(e.event, LookStarted)][-1] == ("agent1.1",)


class Restarted(FakeEngine):
    """An engine that is gone for a while, once a run has its first answer."""

    gone = False

    async def start(self, plan: Plan) -> Link:
        """Not while it is gone."""
        if self.gone:
            raise EngineUnavailable("no container engine answers", op="start")
        return await super().start(plan)


async def test_an_engine_that_dies_is_no_agents_failure(tmp_path: Path, project: Path) -> None:
    """Nobody is excluded, exit 125 with what to type; with the engine back the run goes on, and nothing is paid for twice."""
    engine, state, config = Restarted(tmp_path / "boxes"), tmp_path / "state", one(tmp_path, project)

    def reader(envelope: Envelope) -> None:
        engine.gone = engine.gone or isinstance(envelope.event, AnswerGiven)

    died = await app.run(config, "fix it", engine=engine, readers=[reader], state_dir=state)
    assert (died.outcome, died.exit_code) == ("sandbox", 125)
    assert died.message.endswith(f"massgen resume {died.run_id}")
    assert (project / "code.txt").read_text() == "broken\n"
    engine.gone = False
    again = await app.resume(config, died.run_id, engine=engine, state_dir=state)
    assert (again.outcome, again.usage.output_tokens) == ("applied", died.usage.output_tokens)
    events = [e.event for e in read(again.run_dir / "events.jsonl")]
    assert not [event for event in events if isinstance(event, AgentExcluded | LookFailed)]
    assert [event.after for event in events if isinstance(event, RunResumed)] == ["sandbox"]
    assert engine.running == 0
