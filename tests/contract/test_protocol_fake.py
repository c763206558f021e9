"""The protocol between agents, over the fake engine: debates, news, copies, lost containers, read-only looks, many at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from massgen.agent.view import Answered, Decision, Failed, Presented, View
from massgen.coordination.chair import REOPENINGS
from massgen.coordination.state import Rules, replay, start
from massgen.events.replay import facts
from massgen.events.types import (
    AgentExcluded,
    AnswerGiven,
    DebateStarted,
    LeaseGranted,
    LookFailed,
    LookStarted,
    Notice,
    SandboxStarted,
    Selected,
)
from sandbox import SandboxLost
from tests.support.scripted_run import Play, Run, Turn, alone, contents


def stubborn(label: str, views: list[View] | None = None, *, yields: bool = False) -> Play:
    """Answers, then votes for itself; `yields`: for agent1 once it has seen the votes of a debate."""

    async def play(turn: Turn) -> Decision:
        if views is not None:
            views.append(turn.view)
        if turn.view.phase == "final":
            return Presented(text="done")
        if turn.view.own is None:
            return Answered(text=f"by {label}")
        return turn.vote("agent1" if yields and turn.view.votes else label)

    return play


async def test_agents_that_disagree_debate_with_all_reasons_before_them(make: Callable[..., Run]) -> None:
    """Two of two must agree: they do not, look again with every reason, one gives in; the final turn has all votes."""
    views: list[View] = []
    plays = {"agent1": stubborn("agent1", views), "agent2": stubborn("agent2", yields=True)}
    run = make(plays, rules=Rules(consensus=1.0, max_debates=2))
    ended = await run.go()
    assert (ended.outcome, ended.winner) == ("answered", "agent1")
    assert run.of(DebateStarted) == [DebateStarted(round=1, votes={"agent1": "agent1", "agent2": "agent2"}, share=0.5)]
    debate = next(view for view in views if view.votes and view.phase == "coordination")
    assert [(v.voter, v.label, v.reason) for v in debate.votes] == [
        ("agent1", "agent1", "agent1 is right"),
        ("agent2", "agent2", "agent2 is right"),
    ]
    assert "round 1 of 2" in debate.remark
    assert [(v.voter, v.label) for v in views[-1].votes] == [("agent1", "agent1"), ("agent2", "agent1")]
    assert replay(start(run.plays, run.rules), facts(run.run_dir / "events.jsonl")) == run.live


async def test_a_copy_of_a_peer_clears_no_votes(make: Callable[..., Run]) -> None:
    """Same words, same files: refused, whatever the novelty; the same words about other files are an answer."""
    given = anyio.Event()

    async def first(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            return Presented(text="done")
        if turn.number == 1:
            await turn.write("code.txt", "fixed\n")
            return Answered(text="Done.")
        given.set()
        return turn.vote("agent1")

    async def copier(turn: Turn) -> Decision:
        await given.wait()
        if turn.number == 1:
            await turn.write("code.txt", "fixed\n")
            return Answered(text=" Done.\n")
        if turn.number == 2:
            await turn.write("code.txt", "fixed otherwise\n")
            return Answered(text="Done.")
        return turn.vote("agent1")

    run = make({"agent1": first, "agent2": copier})
    await run.go()
    (failed,) = run.of(LookFailed)
    assert "exactly agent1.1" in failed.why
    assert [e.answer for e in run.of(AnswerGiven)] == ["agent1.1", "agent2.1"]


async def test_a_command_that_keeps_news_away_is_stopped(make: Callable[..., Run]) -> None:
    """An agent that has not heard of a new answer in time is interrupted; one that has heard is left alone."""
    looking = anyio.Event()

    async def first(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            return Presented(text="done")
        if turn.number == 1:
            await looking.wait()
            return Answered(text="one")
        return turn.vote("agent1")

    async def deaf(turn: Turn) -> Decision:
        if turn.number == 1:
            turn.session.behind = True
            looking.set()
            await turn.session.interrupted.wait()
            turn.session.behind = False
        return turn.vote("agent1")

    run = make({"agent1": first, "agent2": deaf}, news_within_s=0.0)
    ended = await run.go()
    assert ended.winner == "agent1"


async def test_work_that_cannot_be_handed_in_any_more_is_dropped(make: Callable[..., Run]) -> None:
    """The last answer is given by another: what an agent is busy with is cut off, and it votes; nobody has failed."""
    looking, cut = anyio.Event(), anyio.Event()

    async def first(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            return Presented(text="done")
        if turn.number == 1:
            await looking.wait()
            return Answered(text="one")
        return turn.vote("agent1")

    async def busy(turn: Turn) -> Decision:
        if turn.number == 1:
            looking.set()
            try:
                await anyio.sleep_forever()
            finally:
                cut.set()
        assert not turn.view.may_answer
        return turn.vote("agent1")

    run = make({"agent1": first, "agent2": busy}, rules=Rules(max_new_answers_global=1))
    ended = await run.go()
    assert (ended.outcome, ended.winner) == ("answered", "agent1")
    assert cut.is_set()
    assert not run.of(LookFailed)


async def test_an_agent_whose_container_dies_gets_another_with_its_answer_in_it(make: Callable[..., Run], project: Path) -> None:
    """What was handed in lies in the new container; the transcript goes on; the run ends as if nothing had been."""
    found: list[str] = []

    async def unlucky(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            return Presented(text="done")
        if turn.view.own is None:
            await turn.write("code.txt", "fixed\n")
            return Answered(text="an answer")
        if not found:
            found.append("lost")
            raise SandboxLost("the container was killed")
        found.append((await turn.session.box.read(str(project / "code.txt"))).decode())
        return turn.vote("agent1")

    async def other(turn: Turn) -> Decision:
        if not turn.view.answers:
            return Answered(text="nothing better")
        return turn.vote("agent1")

    run = make({"agent1": unlucky, "agent2": other})
    ended = await run.go()
    assert (ended.outcome, ended.winner) == ("applied", "agent1")
    assert found == ["lost", "fixed\n"]
    assert [e.agent for e in run.of(SandboxStarted) if e.role == "agent"].count("agent1") == 2
    assert "not handed in is lost" in run.of(LookFailed)[0].why


async def test_a_container_that_always_dies_does_not_come_back_for_ever(make: Callable[..., Run]) -> None:
    """After so many the agent is out, and the others go on."""

    async def cursed(_turn: Turn) -> Decision:
        raise SandboxLost("the container was killed")

    run = make({"agent1": cursed, "agent2": alone()})
    ended = await run.go()
    assert ended.winner == "agent2"
    assert [e.agent for e in run.of(AgentExcluded)] == ["agent1"]
    assert 2 <= [e.agent for e in run.of(SandboxStarted) if e.role == "agent"].count("agent1") <= REOPENINGS + 1


async def test_read_only_coordination_gives_nobody_a_draft_before_the_final_turn(make: Callable[..., Run], project: Path) -> None:
    """Agents propose, with the project read-only; the winner changes it in its final turn, and that is written."""
    modes: list[str] = []

    async def play(turn: Turn) -> Decision:
        modes.append(turn.view.paths[0].mode)
        if turn.view.phase == "final":
            assert "make the changes now" in turn.view.remark
            await turn.write("code.txt", "fixed\n")
            return Presented(text="done")
        return Answered(text="code.txt should say fixed")

    run = make({"agent1": play}, read_only=True, verify="grep -q fixed code.txt")
    ended = await run.go()
    assert (ended.outcome, ended.exit_code) == ("applied", 0)
    assert modes == ["later", "draft"]
    assert contents(project)["code.txt"] == "fixed\n"
    mounts = {e.role: [m["mode"] for m in e.mounts if m["path"] == str(project)] for e in run.of(SandboxStarted)}
    assert (mounts["agent"], mounts["final"], mounts["lease"]) == (["ro"], ["draft"], ["write"])


async def test_a_verify_command_that_fails_on_the_project_is_said_up_front_and_once(make: Callable[..., Run]) -> None:
    """Users hear of it before the first answer is judged, agents in their next look."""
    seen: list[View] = []
    base_known = anyio.Event()

    async def play(turn: Turn) -> Decision:
        seen.append(turn.view)
        if turn.view.phase == "final":
            return Presented(text="done")
        if turn.number == 1:
            await base_known.wait()
            return Failed(why="thinking")
        return Answered(text="an answer")

    run = make({"agent1": play}, verify="false")
    run.on_event = lambda event: base_known.set() if isinstance(event, Notice) else None
    await run.go()
    said = [e.text for e in run.of(Notice) if "fails on your project as it is" in e.text]
    assert len(said) == 1
    assert seen[1].base is not None
    assert not seen[1].base.ok


async def test_a_spent_budget_keeps_the_best_answer(make: Callable[..., Run], project: Path) -> None:
    """The run ends with exit 4; nothing is written, no lease is granted."""
    spent = anyio.Event()

    async def play(turn: Turn) -> Decision:
        if turn.number == 1:
            return Answered(text="an answer")
        spent.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def silent(_turn: Turn) -> Decision:
        await anyio.sleep_forever()
        raise AssertionError

    run = make({"agent1": play, "agent2": silent})
    ended = await run.go(spent=spent)
    assert (ended.outcome, ended.exit_code, ended.winner) == ("budget", 4, "agent1")
    assert not run.of(LeaseGranted)
    assert contents(project)["code.txt"] == "broken\n"


@pytest.mark.parametrize("phase", ["starting", "looking", "handed in", "final"])
async def test_a_stop_in_any_phase_ends_with_what_there_is(make: Callable[..., Run], project: Path, phase: str) -> None:
    """Once: nothing hangs, nothing is written, no container is left, an answer that was given is kept."""
    stop = anyio.Event()

    async def play(turn: Turn) -> Decision:
        if turn.view.phase == "final" or (phase == "looking" and turn.number == 1):
            stop.set()
            await anyio.sleep_forever()
        await turn.write("code.txt", "fixed\n")
        return Answered(text="an answer")

    if phase == "starting":
        stop.set()
    run = make({"agent1": play}, verify="true")
    if phase == "handed in":
        run.on_event = lambda event: stop.set() if isinstance(event, AnswerGiven) else None
    ended = await run.go(stop=stop)
    assert (ended.outcome, ended.exit_code) == ("stopped", 130)
    assert run.engine.running == 0
    assert not run.of(LeaseGranted)
    assert contents(project)["code.txt"] == "broken\n"
    if phase in ("handed in", "final"):
        assert ended.result is not None
        assert ended.result.text == "an answer"


async def test_sixteen_agents_come_to_an_end(make: Callable[..., Run]) -> None:
    """All answer, all vote, some on sets that have changed meanwhile; one wins, no container is left, replay agrees."""
    labels = [f"agent{number}" for number in range(1, 17)]
    run = make({label: stubborn(label) for label in labels})
    ended = await run.go()
    assert ended.winner == "agent1", "a tie goes to the first registered"
    assert len(run.of(AnswerGiven)) == 16
    (selected,) = run.of(Selected)
    assert selected.votes == dict.fromkeys(labels, 1)
    assert max(len(e.answers) for e in run.of(LookStarted)) == 16
    assert run.engine.running == 0
    assert replay(start(labels, run.rules), facts(run.run_dir / "events.jsonl")) == run.live
