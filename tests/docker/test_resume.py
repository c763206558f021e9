"""SIGKILL of `massgen run` at each kind of event, then `massgen resume`, on real containers: the same winner, the same bytes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from massgen.events.codec import event_types
from tests.docker.engine_view import left_of
from tests.support.scenes import Scene, plain, scene_of
from tests.support.user import User, agent, events, say, snapshot_of

pytestmark = pytest.mark.docker

ALWAYS = ("LeaseGranted",)
"""With the right to write given. The other events are slow; one more, before the vote, is below."""
OF_THE_END = ("RunFinished", "RunResumed")
"""A run that ended has no resumption, one that began has no such event: they are killed below."""
OTHERS = sorted(event_types().keys() - set(ALWAYS) - set(OF_THE_END))
"""All that there are: a new type fails here until `scenes.py` has a run in which it comes up."""


@pytest.fixture
def user(tmp_path: Path) -> User:
    """With a home of their own."""
    return User(tmp_path / "home")


def killed_at(user: User, event: str, *command: str, scene: Scene) -> str:
    """A command that got SIGKILL as soon as it said so; returns the run's id."""
    running = user.start(*command, "--json")
    said: list[dict[str, object]] = []
    try:
        assert running.stdout is not None
        for line in running.stdout:
            said.append(json.loads(line))
            scene.meddle(said[-1], running)
            if said[-1]["type"] == event:
                break
        assert said, running.stderr and running.stderr.read()
        assert said[-1]["type"] == event, said[-1]
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    return str(said[-1]["run_id"])


def command(scene: Scene) -> tuple[str, ...]:
    """How the user began it."""
    words = ("run", "Change it", "--config", "team.json", "--write", "project", "--apply", "--verify", "grep -q new code.txt")
    return (*words, *scene.args)


def log_of(user: User, run: str) -> list[dict[str, object]]:
    """All of it."""
    return [json.loads(line) for line in user.massgen("show", run, "--json").stdout.splitlines()]


def marked(event: str) -> object:
    """A slow one, or one that needs the local model, too."""
    return pytest.param(event, marks=[pytest.mark.slow, *([pytest.mark.model] if event == "RepairAttempted" else [])])


@pytest.mark.parametrize("event", [*ALWAYS, *map(marked, OTHERS)])
def test_a_run_that_is_killed_is_finished_by_resume(user: User, event: str):
    """Whatever it was doing: bytes written once, no agent asked twice, no container left, undone byte for byte."""
    with scene_of(event)(user) as scene:
        before = snapshot_of(user.cwd / "project")
        run = killed_at(user, event, *command(scene), scene=scene)
        scene.again()
        listed = [json.loads(line) for line in user.massgen("runs", "--json").stdout.splitlines()]
        assert [(row["run"], row["status"], row["resumable"]) for row in listed] == [(run, "killed", True)]
        assert f"massgen resume {run}" in user.massgen("runs").stderr
        done = user.massgen("resume", "--json")
    assert done.returncode == scene.code, done.stderr
    assert events(done)[0]["type"] == "RunResumed"
    log = log_of(user, run)
    assert sorted(str(row["answer"]) for row in log if row["type"] == "AnswerGiven") == list(scene.answers)
    kinds = [row["type"] for row in log]
    once = ("Selected", "Presented", "RunFinished", *(["Applied"] if scene.code == 0 else []))
    assert [kinds.count(kind) for kind in once] == [1] * len(once)
    assert [row["answer"] for row in log if row["type"] == "Selected"] == ["agent1.1"]
    assert left_of(run, user.home) == []
    assert (user.cwd / "project/code.txt").read_text() == scene.text
    again = user.massgen("resume", run)
    assert (again.returncode, "has ended" in again.stderr) == (2, True)
    taken_back(user, run, scene, before)


def taken_back(user: User, run: str, scene: Scene, before: dict[str, tuple[str, int, bytes]]) -> None:
    """What was written, or what of a run that was cut short can be; the user's own edit stays."""
    kind, mode, _ = before["code.txt"]
    if scene.code == 5:
        shown = user.massgen("diff", run)
        assert "code.txt" in shown.stderr, shown
        assert user.massgen("apply", run).returncode == 5
        assert snapshot_of(user.cwd / "project") == {**before, "code.txt": (kind, mode, scene.text.encode())}
        return
    if scene.code:
        kept = user.massgen("apply", run)
        assert kept.returncode == 0, kept.stderr
        assert "new" in (user.cwd / "project/code.txt").read_text()
    assert user.massgen("undo", run).returncode == 0
    mine = scene.text.replace("new\n", "line 1\n").encode()
    assert snapshot_of(user.cwd / "project") == {**before, "code.txt": (kind, mode, mine)}


@pytest.mark.slow
def test_a_run_that_is_killed_after_its_end_is_over(user: User):
    """All was said and written: nothing is left to resume, it is listed as what it was, and undo takes it back."""
    with plain(user) as scene:
        before = snapshot_of(user.cwd / "project")
        run = killed_at(user, "RunFinished", *command(scene), scene=scene)
    (listed,) = [json.loads(line) for line in user.massgen("runs", "--json").stdout.splitlines()]
    assert (listed["run"], listed["status"], listed["resumable"], listed["written"]) == (run, "applied", False, True)
    again = user.massgen("resume")
    assert (again.returncode, "no run is waiting" in again.stderr) == (2, True)
    assert (user.cwd / "project/code.txt").read_text() == scene.text
    assert user.massgen("undo").returncode == 0
    assert snapshot_of(user.cwd / "project") == before


@pytest.mark.slow
def test_a_resumption_that_is_killed_is_resumed(user: User):
    """And the one after it: none of them asks anybody again for what was answered."""
    with plain(user) as scene:
        before = snapshot_of(user.cwd / "project")
        run = killed_at(user, "AnswerGiven", *command(scene), scene=scene)
        for event in ("RunResumed", "LeaseGranted"):
            assert killed_at(user, event, "resume", run, scene=scene) == run
        done = user.massgen("resume", run)
    assert done.returncode == 0, done.stderr
    kinds = [row["type"] for row in log_of(user, run)]
    assert [kinds.count(kind) for kind in ("AnswerGiven", "RunResumed", "Selected", "Applied", "RunFinished")] == [1, 3, 1, 1, 1]
    assert (user.cwd / "project/code.txt").read_text() == scene.text
    assert user.massgen("undo", run).returncode == 0
    assert snapshot_of(user.cwd / "project") == before


def test_resume_shows_a_run_as_if_it_had_never_stopped(user: User):
    """The summary has the votes of before, the readable folder the whole story, and the next start had said what to type."""
    with plain(user) as scene:
        run = killed_at(user, "VoteCast", *command(scene), scene=scene)
    user.write("hello.yaml", [say(answer="hi"), say(final="hi")])
    user.write("other.yaml", {"agents": [agent("solo", "hello.yaml")]})
    other = user.massgen("run", "Say hi", "--config", "other.yaml", "--no-logs")
    assert f"to go on with it: massgen resume {run}" in other.stderr
    done = user.massgen("resume", run[:-2])
    assert done.returncode == 0, done.stderr
    assert (done.stdout, "2 of 2 votes" in done.stderr) == ("done\n", True)
    (folder,) = [path for path in (user.cwd / ".massgen/massgen_logs").iterdir() if (path / "result.json").exists()]
    assert json.loads((folder / "result.json").read_text())["outcome"] == "applied"
    assert (folder / "agent_outputs/one.txt").read_text().count("=== answer agent1.1") == 1
    assert (folder / "events.jsonl").read_text() == user.massgen("show", run, "--json").stdout
