"""Every way a run can end, over the fake engine: conflicts, verdicts, failures, caps, time, and the user."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from massgen.agent.view import Answered, Decision, Failed, Presented
from massgen.coordination import later
from massgen.coordination import record as records
from massgen.coordination.state import Rules, Select
from massgen.errors import ApplyConflict, ConfigError, ConsentNeeded
from massgen.events.types import (
    AgentExcluded,
    AnswerGiven,
    Applied,
    Conflicted,
    LeaseGranted,
    Notice,
    Verified,
)
from sandbox import SandboxLost
from tests.support.scripted_run import Play, Run, Turn, alone, contents


@pytest.mark.parametrize("when", ["before the answer", "after the answer"])
async def test_a_project_edited_meanwhile_is_not_written_over(make: Callable[..., Run], project: Path, when: str) -> None:
    """The user edits a file that the answer changes: exit 5, nothing written, the edit stays."""

    async def play(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            if when == "after the answer":
                (project / "code.txt").write_text("the user was here\n")
            await turn.write("another.txt", "x")
            return Presented(text="done")
        if when == "before the answer":
            (project / "code.txt").write_text("the user was here\n")
        await turn.write("code.txt", "fixed\n")
        return Answered(text="an answer")

    run = make({"agent1": play})
    ended = await run.go()
    assert (ended.outcome, ended.exit_code) == ("conflict", 5)
    assert (project / "code.txt").read_text() == "the user was here\n"
    assert not (project / "another.txt").exists()
    assert run.of(Conflicted) == [Conflicted(paths=(str(project / "code.txt"),))]
    assert not run.of(Applied)


LINES = [f"line {number}\n" for number in range(20)]


@pytest.mark.parametrize("lines", ["apart", "the same", "both alike"])
async def test_an_edit_of_the_users_is_neither_lost_nor_guessed_at(make: Callable[..., Run], project: Path, lines: str) -> None:
    """The user edits a file that the result changes: joined when the edits are apart, a conflict when not; undo gives it back."""
    theirs = {"apart": 18, "the same": 1, "both alike": 1}[lines]
    (project / "code.txt").write_text("".join(LINES))
    (project / "code.txt").chmod(0o640)

    async def play(turn: Turn) -> Decision:
        await turn.write("code.txt", "".join([LINES[0], "agent\n", *LINES[2:]]))
        return Presented(text="done") if turn.view.phase == "final" else Answered(text="an answer")

    run = make({"agent1": play}, write_mode="review")
    await run.go()
    said = "agent\n" if lines == "both alike" else "user\n"
    mine = "".join([*LINES[:theirs], said, *LINES[theirs + 1 :]])
    (project / "code.txt").write_text(mine)
    (project / "code.txt").chmod(0o600)
    if lines == "the same":
        with pytest.raises(ApplyConflict, match=r"code\.txt"):
            await later.apply(run.state_dir, "", engine=run.engine)
        assert (project / "code.txt").read_text() == mine
        return
    await later.apply(run.state_dir, "", engine=run.engine)
    assert (project / "code.txt").read_text() == mine.replace("line 1\n", "agent\n")
    assert (project / "code.txt").stat().st_mode & 0o777 == 0o600
    await later.undo(run.state_dir, "", engine=run.engine)
    assert (project / "code.txt").read_text() == mine


async def test_a_removed_or_binary_file_is_a_conflict(make: Callable[..., Run], project: Path) -> None:
    """Nobody guesses what a user who removed a file, or changed a picture, would want; nothing else is written either."""
    (project / "picture").write_bytes(b"\0one")
    (project / "gone.txt").write_text("x\n")

    async def play(turn: Turn) -> Decision:
        for name in ("picture", "gone.txt", "code.txt"):
            await turn.write(name, "agent\n")
        return Presented(text="done") if turn.view.phase == "final" else Answered(text="an answer")

    run = make({"agent1": play}, write_mode="review")
    await run.go()
    (project / "picture").write_bytes(b"\0two")
    (project / "gone.txt").unlink()
    with pytest.raises(ApplyConflict, match=r"gone\.txt, .*picture"):
        await later.apply(run.state_dir, "", engine=run.engine)
    assert (project / "code.txt").read_text() == "broken\n"


EVIL = """
mkdir -p .github/workflows .husky && echo evil > .github/workflows/x.yml && echo evil > .husky/pre-commit && echo evil > .bashrc
echo fixed > code.txt
"""


async def test_what_runs_by_itself_does_not_cross_unasked(make: Callable[..., Run], project: Path) -> None:
    """A winner that plants hooks, workflows and shell files: nothing at all is written, each is named; consent is per class."""

    async def play(turn: Turn) -> Decision:
        await turn.shell(EVIL)
        return Presented(text="done") if turn.view.phase == "final" else Answered(text="an answer")

    run = make({"agent1": play})
    before = contents(project)
    ended = await run.go()
    assert (ended.outcome, ended.exit_code) == ("ready", 1)
    assert all(word in ended.message for word in ("--allow hooks", "--allow ci", "--allow shell", ".bashrc"))
    assert contents(project) == before
    assert not run.of(LeaseGranted)
    with pytest.raises(ConsentNeeded, match="--allow hooks"):
        await later.apply(run.state_dir, "", engine=run.engine, allowed=frozenset({"ci", "shell"}))
    assert contents(project) == before
    await later.apply(run.state_dir, "", engine=run.engine, allowed=frozenset({"ci", "shell", "hooks"}))
    assert contents(project)[".bashrc"] == "evil\n"


async def test_a_storm_of_removals_does_not_cross_unasked(make: Callable[..., Run], project: Path) -> None:
    """An agent that empties the project has to be believed by its user first."""
    for number in range(30):
        (project / f"file{number}.txt").write_text("x")

    async def play(turn: Turn) -> Decision:
        await turn.shell("rm -f file*.txt")
        return Presented(text="done") if turn.view.phase == "final" else Answered(text="an answer")

    run = make({"agent1": play})
    ended = await run.go()
    assert (ended.outcome, ended.exit_code) == ("ready", 1)
    assert "--allow deletes" in ended.message
    assert (project / "file7.txt").exists()


async def test_two_runs_on_one_project_lose_nothing_of_each_other(make: Callable[..., Run], project: Path) -> None:
    """At once, in one state folder: files of their own, and edits in two places of one file, are all there afterwards."""
    (project / "code.txt").write_text("".join(LINES))

    def plays(name: str, number: int) -> dict[str, Play]:
        async def play(turn: Turn) -> Decision:
            await turn.write(f"{name}.txt", name)
            await turn.write("code.txt", "".join([*LINES[:number], f"{name}\n", *LINES[number + 1 :]]))
            return Presented(text="done") if turn.view.phase == "final" else Answered(text="an answer")

        return {"agent1": play}

    runs = [make(plays("one", 2)), make(plays("two", 17))]
    runs[1].engine = runs[0].engine
    async with anyio.create_task_group() as tasks:
        for run in runs:
            tasks.start_soon(run.go)
    assert runs[0].run_dir != runs[1].run_dir
    assert [len(run.of(Applied)) for run in runs] == [1, 1]
    found = contents(project)
    assert (found["one.txt"], found["two.txt"]) == ("one", "two")
    assert found["code.txt"] == "".join([*LINES[:2], "one\n", *LINES[3:17], "two\n", *LINES[18:]])


async def three_files(make: Callable[..., Run], project: Path) -> Run:
    """A run in mode review whose result touches a file, adds one in a folder, and removes one."""
    (project / "old.txt").write_text("old\n")

    async def play(turn: Turn) -> Decision:
        await turn.write("code.txt", "fixed\n")
        await turn.shell("mkdir -p sub && echo new > sub/new.txt && chmod 755 sub/new.txt && rm -f old.txt")
        return Presented(text="done") if turn.view.phase == "final" else Answered(text="an answer")

    run = make({"agent1": play}, write_mode="review")
    await run.go()
    return run


def stands(run: Run) -> later.Standing | None:
    """What `massgen show` says of it now."""
    return later.standing(run.state_dir, records.load(run.run_dir))


async def test_parts_of_a_result_are_written_and_taken_back_one_by_one(make: Callable[..., Run], project: Path) -> None:
    """`--only` writes that and nothing else; the rest can follow; undo goes back through them; redo goes forward again."""
    run = await three_files(make, project)
    before = contents(project)
    await later.apply(run.state_dir, "", engine=run.engine, only=[project / "sub"])
    only_sub = contents(project)
    assert only_sub == {**before, "sub/new.txt": "new\n"}
    with pytest.raises(ConfigError, match="nothing at"):
        await later.apply(run.state_dir, "", engine=run.engine, only=[project / "sub"])
    await later.apply(run.state_dir, "", engine=run.engine)
    whole = contents(project)
    assert whole == {k: v for k, v in before.items() if k != "old.txt"} | {"code.txt": "fixed\n", "sub/new.txt": "new\n"}
    assert stands(run) == later.Standing(written=3, left=0, undone=False)
    undone = await later.undo(run.state_dir, "", engine=run.engine)
    assert (undone.files, undone.earlier) == ((str(project / "code.txt"), str(project / "old.txt")), 1)
    assert stands(run) == later.Standing(written=1, left=2, undone=True)
    assert contents(project) == only_sub
    await later.undo(run.state_dir, "", engine=run.engine, redo=True)
    assert contents(project) == whole
    await later.undo(run.state_dir, "", engine=run.engine)
    undone = await later.undo(run.state_dir, "", engine=run.engine)
    assert (undone.files, undone.earlier) == ((str(project / "sub/new.txt"),), 0), "folders are no files"
    assert contents(project) == before
    with pytest.raises(ConfigError, match="wrote nothing"):
        await later.undo(run.state_dir, "", engine=run.engine)


async def test_redo_does_not_write_over_a_later_edit(make: Callable[..., Run], project: Path) -> None:
    """What undo gave back and the user edited since stays."""
    run = await three_files(make, project)
    await later.apply(run.state_dir, "", engine=run.engine)
    await later.undo(run.state_dir, "", engine=run.engine)
    (project / "code.txt").write_text("mine\n")
    with pytest.raises(ApplyConflict, match=r"code\.txt"):
        await later.undo(run.state_dir, "", engine=run.engine, redo=True)
    assert (project / "code.txt").read_text() == "mine\n"


def git(project: Path, *words: str) -> str:
    """The user's own git."""
    who = ("-c", "user.name=u", "-c", "user.email=u@example.org")
    return subprocess.run(["git", "-C", project, *who, *words], check=True, capture_output=True, text=True).stdout


async def test_a_result_on_a_branch_moves_nothing_else(
    make: Callable[..., Run], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HEAD, index, working tree and hooks: as they were. The commit holds the result, modes and removals too."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "u")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "u@example.org")
    git(project, "init", "-q", "-b", "trunk")
    (project / "old.txt").write_text("old\n")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "base")
    hook = project / ".git" / "hooks" / "reference-transaction"
    hook.write_text(f"#!/bin/sh\necho ran >> {project}/.git/ran\n")
    hook.chmod(0o755)
    run = await three_files(make, project)
    before = (project / "code.txt").read_text()
    index = (project / ".git" / "index").read_bytes()
    made = later.branch(run.state_dir, "", "result")
    assert git(project, "diff", "--name-status", "trunk", "result").split() == [
        *("M", "code.txt", "D", "old.txt", "A", "sub/new.txt"),
    ]
    assert "100755" in git(project, "ls-tree", "result", "sub/new.txt")
    assert git(project, "rev-parse", "--abbrev-ref", "HEAD").strip() == "trunk"
    assert (project / "code.txt").read_text() == before
    assert (project / "old.txt").exists()
    assert not (project / "sub").exists()
    assert (project / ".git" / "index").read_bytes() == index
    assert not (project / ".git" / "ran").exists()
    assert len(made.files) == 3
    with pytest.raises(ConfigError, match="a branch result already"):
        later.branch(run.state_dir, "", "result")
    with pytest.raises(ConfigError, match="refused"):
        later.branch(run.state_dir, "", "../evil")


async def test_diff_says_what_the_user_changed_meanwhile(make: Callable[..., Run], project: Path) -> None:
    """Before anything is written."""
    run = await three_files(make, project)
    assert later.moved(run.state_dir, "") == ()
    (project / "code.txt").write_text("mine\n")
    assert later.moved(run.state_dir, "") == (str(project / "code.txt"),)


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
    assert (ended.outcome, ended.exit_code) == ("no answer", 3)
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
