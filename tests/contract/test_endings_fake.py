"""Every way a run can end, over the fake engine: verdicts, failures, caps, time, and the user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio

from massgen.agent.view import Answered, Decision, Failed, Presented
from massgen.coordination import later
from massgen.coordination.state import Rules, Select
from massgen.events.types import (
    AgentExcluded,
    AnswerGiven,
    LeaseGranted,
    Notice,
    Verified,
)
from sandbox import SandboxLost
from tests.support.scripted_run import Run, Turn, alone


async def test_review_writes_nothing_until_asked(make: Callable[..., Run], project: Path) -> None:
    """Mode review ends ready, with no lease; `apply` writes later."""
    run = make({"agent1": alone()}, write_mode="review")
    ended = await run.go()
    assert (ended.outcome, ended.exit_code) == ("ready", 0)
    assert not run.of(LeaseGranted)
    assert (project / "code.txt").read_text() == "broken\n"
    await later.apply(run.state_dir, "", engine=run.engine)
    assert (project / "code.txt").read_text() == "fixed\n"


async def test_a_result_that_fails_verify_is_not_written(make: Callable[..., Run], project: Path) -> None:
    """The command passed before and fails now: exit 1, the project as it was."""
    run = make({"agent1": alone("worse\n")}, verify="grep -q broken code.txt")
    ended = await run.go()
    assert (ended.outcome, ended.exit_code) == ("failed", 1)
    assert (project / "code.txt").read_text() == "broken\n"
    verdicts = {e.answer: e.ok for e in run.of(Verified)}
    assert verdicts == {"base": True, "agent1.1": False, "final": False}


async def test_a_failure_that_was_there_before_does_not_block_the_write(make: Callable[..., Run], project: Path) -> None:
    """The command failed on the untouched project too: written, said, and still a negative verdict."""
    run = make({"agent1": alone("other\n")}, verify="grep -q fixed code.txt")
    ended = await run.go()
    assert (ended.outcome, ended.exit_code) == ("applied", 1)
    assert any("as it did on the untouched project" in e.text for e in run.of(Notice))
    assert (project / "code.txt").read_text() == "other\n"


async def test_a_final_turn_that_breaks_the_answer_is_dropped(make: Callable[..., Run], project: Path) -> None:
    """What was voted for passes, the final turn breaks it: the voted snapshot is what is written."""

    async def play(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            await turn.write("code.txt", "oops\n")
            return Presented(text="even better")
        await turn.write("code.txt", "fixed\n")
        return Answered(text="an answer")

    run = make({"agent1": play}, verify="grep -q fixed code.txt")
    ended = await run.go()
    assert ended.outcome == "applied"
    assert (project / "code.txt").read_text() == "fixed\n"
    assert any("made the verify command worse" in e.text for e in run.of(Notice))
    assert (run.peers / "agent1.1" / "verify.json").exists()


async def test_a_final_turn_that_fails_does_not_lose_the_answer(make: Callable[..., Run], project: Path) -> None:
    """The winner's model is gone in the final turn: the voted answer is presented and written."""

    async def play(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            return Failed(why="endpoint down")
        await turn.write("code.txt", "fixed\n")
        return Answered(text="an answer")

    run = make({"agent1": play})
    ended = await run.go()
    assert ended.outcome == "applied"
    assert ended.result is not None
    assert ended.result.text == "an answer"
    assert (project / "code.txt").read_text() == "fixed\n"


async def test_a_sandbox_that_dies_in_the_final_turn_does_not_lose_the_answer(make: Callable[..., Run], project: Path) -> None:
    """The final container is lost under the session: the voted answer is presented and written."""

    async def play(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            raise SandboxLost("the engine went away")
        await turn.write("code.txt", "fixed\n")
        return Answered(text="an answer")

    run = make({"agent1": play})
    ended = await run.go()
    assert (ended.outcome, ended.exit_code) == ("applied", 0)
    assert (project / "code.txt").read_text() == "fixed\n"
    assert any("the engine went away" in e.text for e in run.of(Notice))


async def test_protected_paths_pass_neither_verify_nor_the_write(make: Callable[..., Run], project: Path) -> None:
    """An answer that rewrites a protected test is judged by the project's own, and the rewrite is not written."""

    async def play(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            return Presented(text="done")
        await turn.write("tests/test_code.py", "pass\n")
        await turn.write("tests/test_more.py", "pass\n")
        await turn.write("code.txt", "fixed\n")
        return Answered(text="an answer")

    run = make({"agent1": play}, verify="grep -q assert tests/test_code.py", protected=(project / "tests" / "test_code.py",))
    ended = await run.go()
    assert ended.outcome == "applied"
    assert (project / "tests" / "test_code.py").read_text() == "assert True\n"
    assert (project / "code.txt").read_text() == "fixed\n"
    assert [e.tests_changed for e in run.of(Verified) if e.answer == "final"] == [True]


async def test_an_agent_that_keeps_failing_is_out_and_the_others_go_on(make: Callable[..., Run]) -> None:
    """Two failures exclude; the one that is left has answered, so the run ends without a vote."""
    out = anyio.Event()

    async def failing(turn: Turn) -> Decision:
        if turn.number == 2:
            out.set()
        return Failed(why="no reply")

    async def working(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            return Presented(text="done")
        if turn.number == 1:
            await out.wait()
            return Answered(text="text only")
        return turn.vote("agent2")

    run = make({"agent1": failing, "agent2": working})
    ended = await run.go()
    assert (ended.outcome, ended.winner) == ("answered", "agent2")
    assert run.of(AgentExcluded) == [AgentExcluded(agent="agent1", why="no reply")]


async def test_a_run_where_all_fail_ends_with_exit_3(make: Callable[..., Run]) -> None:
    """No answer is an end like any other: said, logged, no container left."""

    async def failing(_turn: Turn) -> Decision:
        return Failed(why="wrong key", fatal=True)

    run = make({"agent1": failing, "agent2": failing})
    ended = await run.go()
    assert (ended.outcome, ended.exit_code, ended.message) == ("no answer", 3, "no agent produced an answer: wrong key")
    assert run.engine.running == 0


async def test_a_stop_keeps_the_best_answer_and_writes_nothing(make: Callable[..., Run], project: Path) -> None:
    """Ctrl-C in mid-run: the answer is selected and kept for `massgen apply`; no final turn, no lease."""
    stop = anyio.Event()

    async def first(turn: Turn) -> Decision:
        if turn.number == 1:
            await turn.write("code.txt", "fixed\n")
            return Answered(text="an answer")
        stop.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def silent(_turn: Turn) -> Decision:
        await anyio.sleep_forever()
        raise AssertionError

    run = make({"agent1": first, "agent2": silent})
    ended = await run.go(stop=stop)
    assert (ended.outcome, ended.exit_code, ended.winner) == ("stopped", 130, "agent1")
    assert (project / "code.txt").read_text() == "broken\n"
    assert not run.of(LeaseGranted)
    assert run.engine.running == 0
    assert "+fixed" in later.diff(run.state_dir, "")
    assert run.decided is not None
    assert isinstance(run.decided.end, Select)


async def test_time_up_without_an_answer_is_a_timeout(make: Callable[..., Run]) -> None:
    """Nobody answered in time: 124, nothing left behind."""

    async def silent(_turn: Turn) -> Decision:
        await anyio.sleep_forever()
        raise AssertionError

    run = make({"agent1": silent})
    ended = await run.go(deadline_s=0.0)
    assert (ended.outcome, ended.exit_code) == ("timeout", 124)
    assert run.engine.running == 0


async def test_a_capped_answer_that_comes_late_is_not_taken(make: Callable[..., Run]) -> None:
    """Two answer at once under a cap of one: the second is sent back to vote, and no such answer is logged."""
    given = anyio.Event()

    async def first(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            return Presented(text="done")
        if turn.number == 1:
            return Answered(text="one")
        given.set()
        return turn.vote("agent1")

    async def second(turn: Turn) -> Decision:
        if turn.number == 1:
            await given.wait()
            return Answered(text="two")
        assert not turn.view.may_answer
        return turn.vote("agent1")

    run = make({"agent1": first, "agent2": second}, rules=Rules(max_new_answers_global=1))
    ended = await run.go()
    assert ended.winner == "agent1"
    assert [e.answer for e in run.of(AnswerGiven)] == ["agent1.1"]
