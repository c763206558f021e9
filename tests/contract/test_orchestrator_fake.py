"""A whole run over the fake engine: three scripted agents, answers, votes, the final turn, the write, and the way back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from massgen.agent.view import Answered, Decision, Failed, Presented, ShownAnswer, View, Voted
from massgen.coordination import later
from massgen.coordination.state import replay, start
from massgen.errors import ApplyConflict, ConfigError
from massgen.events.replay import facts
from massgen.events.types import (
    Applied,
    LeaseGranted,
    Notice,
    SandboxEnded,
    SandboxStarted,
    Selected,
    VoteCast,
)
from massgen.events.types import Presented as PresentedEvent
from tests.support.scripted_run import Play, Run, Turn, contents


def team(told: list[View] | None = None) -> dict[str, Play]:
    """agent1 and agent2 answer; agent3 first votes on an old view; all vote for agent2, which ends with a note."""
    answered = anyio.Event()
    both = anyio.Event()

    async def first(turn: Turn) -> Decision:
        if turn.number == 1:
            await turn.write("code.txt", "attempt\n")
            return Answered(text="first try")
        answered.set()
        await both.wait()
        return turn.vote("agent2") if "agent2.1" in turn.session.seen else turn.vote("agent1")

    async def second(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            if told is not None:
                told.append(turn.view)
            await turn.write("notes/final.txt", "written in the final turn\n")
            return Presented(text="the user is told")
        if turn.number == 1:
            await answered.wait()
            await turn.write("code.txt", "fixed\n")
            await turn.write(".env", "STOLEN=1\n")
            await turn.write("__pycache__/x.pyc", "cache")
            return Answered(text="better")
        both.set()
        return turn.vote("agent2")

    async def third(turn: Turn) -> Decision:
        await both.wait()
        if turn.number == 1:
            return Voted(label="agent1", reason="early", seen=("agent1.1",))
        return turn.vote("agent2")

    return {"agent1": first, "agent2": second, "agent3": third}


async def test_the_best_answer_reaches_the_project_and_nothing_else_does(make: Callable[..., Run], project: Path) -> None:
    """Answers, a stale vote, votes, final turn, apply: the project changes once, by the one lease, after the vote."""
    told: list[View] = []
    run = make(team(told))
    ended = await run.go()
    assert (ended.outcome, ended.exit_code, ended.winner) == ("applied", 0, "agent2")
    assert contents(project) == {
        "code.txt": "fixed\n",
        "notes/final.txt": "written in the final turn\n",
        "tests/test_code.py": "assert True\n",
        ".env": "SECRET=1\n",
    }
    (selected,) = run.of(Selected)
    assert selected == Selected(agent="agent2", answer="agent2.1", votes={"agent2": 3}, why="3 of 3 votes")
    assert any(isinstance(e, Notice) and ".env" in e.text for e in run.events), "the agent is told what was left out"

    order = [type(e) for e in run.of(Selected, LeaseGranted, Applied, PresentedEvent)]
    assert order == [Selected, PresentedEvent, LeaseGranted, Applied]
    writers = [p for p in run.engine.started if any(not b.read_only for b in p.binds)]
    assert [p.labels["massgen.role"] for p in writers] == ["lease"]
    assert writers == run.engine.started[-1:]
    assert run.engine.running == 0

    final = told[0]
    assert [a.id for a in final.answers] == ["agent1.1", "agent2.1"], "own last"
    assert [(v.voter, v.label, v.reason) for v in final.votes] == [(f"agent{n}", "agent2", "agent2 is right") for n in (1, 2, 3)]
    assert final.own == "agent2.1"


async def test_replay_of_the_log_is_the_state_of_the_run(make: Callable[..., Run]) -> None:
    """The facts in the log, given to the pure function, end in the very state that the run ended in."""
    run = make(team())
    await run.go()
    told = facts(run.run_dir / "events.jsonl")
    assert replay(start(run.plays, run.rules), told) == run.live
    assert [type(f) for f in told].count(VoteCast) >= 4, "the stale vote is on record"


async def test_who_judges_by_tests_is_never_shown_an_unverified_answer(make: Callable[..., Run]) -> None:
    """Such an agent looks at answers only with their verdicts, also at those that came while it was busy."""
    shown: list[ShownAnswer] = []

    async def play(turn: Turn) -> Decision:
        shown.extend(turn.view.answers)
        if turn.view.phase == "final":
            return Presented(text="done")
        if turn.view.own is None:
            await turn.write("code.txt", "fixed\n")
            return Answered(text=turn.session.box.container)
        return turn.vote("agent1")

    run = make({"agent1": play, "agent2": play}, verify="sleep 0.2; grep -q fixed code.txt", needs_verdicts=True)
    ended = await run.go()
    assert ended.outcome == "applied"
    assert {answer.id for answer in shown} == {"agent1.1", "agent2.1"}
    assert all(answer.verify and answer.verify.ok for answer in shown)


async def test_no_container_of_coordination_is_left_when_the_lease_is_granted(make: Callable[..., Run]) -> None:
    """Everybody else is gone before the right to write exists."""
    run = make(team())
    await run.go()
    open_now: set[str] = set()
    for event in run.events:
        if isinstance(event, SandboxStarted):
            open_now.add(event.container)
        elif isinstance(event, SandboxEnded):
            open_now.discard(event.container)
        elif isinstance(event, LeaseGranted):
            assert open_now == set()


async def test_peers_see_complete_read_only_answers(make: Callable[..., Run]) -> None:
    """/peers holds each answer with text, patch and files, none of them writable, none of them secret."""
    run = make(team())
    await run.go()
    shown = run.peers / "agent2.1"
    assert (shown / "answer.md").read_text() == "better"
    patch = (shown / "changes.patch").read_text()
    assert "-broken\n+fixed\n" in patch
    assert "STOLEN" not in patch
    files = [p for p in shown.rglob("*") if p.is_file()]
    assert {p.stat().st_mode & 0o222 for p in files} == {0}
    assert {p.name for p in files} == {"answer.md", "changes.patch", "code.txt"}
    assert sorted(p.name for p in run.peers.iterdir()) == ["agent1.1", "agent2.1"]


async def test_undo_and_apply_move_the_project_back_and_forth(make: Callable[..., Run], project: Path) -> None:
    """After the run, undo restores every byte, diff shows the change, apply writes it again; each ends once."""
    before = contents(project)
    run = make(team())
    await run.go()
    after = contents(project)
    undone = await later.undo(run.state_dir, "", engine=run.engine)
    assert str(project / "code.txt") in undone.files
    assert contents(project) == before
    assert not (project / "notes").exists()
    with pytest.raises(ConfigError, match="taken back already; `massgen undo --redo`"):
        await later.undo(run.state_dir, run.run_dir.name[:8], engine=run.engine)
    assert "+fixed" in later.diff(run.state_dir, run.run_dir.name)
    await later.apply(run.state_dir, "", engine=run.engine)
    assert contents(project) == after
    with pytest.raises(ConfigError, match="written already"):
        await later.apply(run.state_dir, "", engine=run.engine)
    (project / "code.txt").write_text("edited since\n")
    with pytest.raises(ApplyConflict, match=r"code\.txt"):
        await later.undo(run.state_dir, "", engine=run.engine)
    assert (project / "code.txt").read_text() == "edited since\n"


@pytest.fixture
def users_project(project: Path) -> Path:
    """A project that is not root's: `direct` refuses those."""
    if os.geteuid() == 0:
        os.chown(project, 65532, 65532)
    return project


async def test_direct_leaves_an_undo_of_everything_the_final_turn_did(make: Callable[..., Run], users_project: Path) -> None:
    """The final turn itself writes in the project, in the one container with a write mount; undo takes all of it back."""
    before = contents(users_project)

    async def play(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            assert [place.mode for place in turn.view.paths] == ["write"]
            await turn.write("more/new.txt", "by the final turn\n")
            await turn.shell("rm tests/test_code.py")
            return Presented(text="done")
        await turn.write("fresh.txt", "voted\n")
        return Answered(text="an answer")

    run = make({"agent1": play}, write_mode="direct")
    ended = await run.go()
    assert (ended.outcome, ended.exit_code, ended.message) == ("applied", 0, "")
    now = contents(users_project)
    assert now["more/new.txt"] == "by the final turn\n"
    assert now["fresh.txt"] == "voted\n"
    assert "tests/test_code.py" not in now
    assert ended.result is not None
    changes = {change.path: change.kind for change in ended.result.patch.changes}
    assert changes == {"fresh.txt": "added", "more/new.txt": "added", "tests/test_code.py": "deleted"}
    assert "-assert True" in later.diff(run.state_dir, "")
    writers = [p for p in run.engine.started if any(not b.read_only for b in p.binds)]
    assert [p.labels["massgen.role"] for p in writers] == ["final"]
    await later.undo(run.state_dir, "", engine=run.engine)
    assert contents(users_project) == before


async def test_a_failed_direct_turn_is_taken_back(make: Callable[..., Run], users_project: Path) -> None:
    """What the failed turn wrote is gone again; the voted answer is what the user gets, in review."""

    async def play(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            await turn.write("garbage.txt", "half done\n")
            return Failed(why="endpoint down")
        await turn.write("fresh.txt", "voted\n")
        return Answered(text="an answer")

    run = make({"agent1": play}, write_mode="direct")
    ended = await run.go()
    assert ended.outcome == "applied"
    now = contents(users_project)
    assert now["fresh.txt"] == "voted\n"
    assert "garbage.txt" not in now
