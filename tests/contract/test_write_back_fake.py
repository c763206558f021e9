"""What of a result is written, when, and what is kept of the user's, over the fake engine: edits, consent, parts, branches."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from massgen.agent.view import Answered, Decision, Presented
from massgen.coordination import later
from massgen.coordination import record as records
from massgen.coordination.lock import LOCKS, one_writer
from massgen.errors import ApplyConflict, ConfigError, ConsentNeeded
from massgen.events.types import (
    Applied,
    Conflicted,
    LeaseGranted,
)
from tests.support.scripted_run import Play, Run, Turn, contents


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


async def test_two_commands_at_once_write_one_result_twice(make: Callable[..., Run], project: Path) -> None:
    """Both wait for the same lock: one writes, the other says so; and the same with `undo`, which gives the project back."""
    run = await three_files(make, project)
    before, seen = contents(project), len(list((run.run_dir / "writes").glob("*")))
    for number, act in enumerate((later.apply, later.undo), start=1):
        said: list[str] = []

        async def one(act: Callable[..., Awaitable[later.Later]], said: list[str]) -> None:
            try:
                said.append(f"done {len((await act(run.state_dir, '', engine=run.engine)).files)}")
            except ConfigError as error:
                said.append(str(error))

        async with anyio.create_task_group() as tasks, one_writer(run.state_dir / LOCKS, [project]):
            for _ in range(2):
                tasks.start_soon(one, act, said)
            while len(list((run.run_dir / "writes").glob("*"))) < seen + 2 * number:  # noqa: ASYNC110  (of a log on the disk)
                await anyio.sleep(0.01)
        assert "done 3" in said
        assert [s for s in said if "another massgen has just" in s and run.run_dir.name in s], said
    assert contents(project) == before


async def test_a_link_that_the_user_pointed_to_the_same_place_is_no_conflict(make: Callable[..., Run], project: Path) -> None:
    """Both made the same edit of a symbolic link: the rest is written; a link to elsewhere stops all of it."""
    (project / "link").symlink_to("code.txt")

    async def play(turn: Turn) -> Decision:
        await turn.shell("echo fixed > code.txt; ln -sfn tests link")
        return Presented(text="done") if turn.view.phase == "final" else Answered(text="an answer")

    run = make({"agent1": play}, write_mode="review")
    await run.go()
    for target in ("elsewhere", "tests"):
        (project / "link").unlink()
        (project / "link").symlink_to(target)
        if target == "elsewhere":
            with pytest.raises(ApplyConflict, match="link"):
                await later.apply(run.state_dir, "", engine=run.engine)
            assert (project / "code.txt").read_text() == "broken\n"
    await later.apply(run.state_dir, "", engine=run.engine)
    assert (project / "code.txt").read_text() == "fixed\n"
    assert (project / "link").readlink() == Path("tests")


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
    with pytest.raises(ConfigError, match="taken back already; `massgen undo --redo`"):
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
