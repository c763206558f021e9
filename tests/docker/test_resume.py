"""SIGKILL of `massgen run` at an event, then `massgen resume`, on real containers: the same winner and the same bytes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from massgen.events.codec import event_types
from tests.docker.engine_view import labelled
from tests.support.user import User, agent, events, say, snapshot_of

pytestmark = pytest.mark.docker

ALWAYS = ("AnswerGiven", "Selected", "LeaseGranted")
"""Before the vote, after it, and with the right to write given; the other events are slow."""

NEVER_HERE = {
    *("RunFinished", "RunResumed", "Streamed"),  # the end itself, no first run has it, not in the log
    *("ModelFailed", "ModelHeld", "Compacted", "LookFailed", "AgentExcluded", "RepairAttempted"),  # nothing goes wrong
    *("TimeUp", "BudgetOut", "UserStop", "DebateStarted", "Merged", "Conflicted"),  # nobody disagrees or interferes
    "Notice",
}
OTHERS = sorted(event_types().keys() - NEVER_HERE - set(ALWAYS))


@pytest.fixture
def user(tmp_path: Path) -> User:
    """With a project, and two agents of which one fixes it and both vote for that."""
    user = User(tmp_path / "home")
    user.write("project/code.txt", "old\n")
    nothing, some = {"phase": "coordination", "answers": 0}, {"phase": "coordination", "answers": ">=1"}
    fix = [{"name": "shell", "args": {"command": "echo new > code.txt; echo x > 'a b'"}}]
    hand_in = [{"name": "new_answer", "args": {"content": "fixed"}}]
    wait = [{"name": "shell", "args": {"command": "sleep 0.2"}}]
    votes = [{"when": some, "calls": [{"name": "vote", "args": {"agent_id": "agent1", "reason": "it holds"}}]}] * 3
    works = [{"when": nothing, "text": "I look.", "calls": fix}, {"when": nothing, "calls": hand_in}]
    user.write("one.yaml", [*works, *votes, say(final="done")])
    user.write("two.yaml", [*[{"when": nothing, "calls": wait}] * 200, *votes])
    user.write("team.yaml", {"agents": [agent("one", "one.yaml"), agent("two", "two.yaml")]})
    return user


def killed_at(user: User, event: str) -> str:
    """A run that got SIGKILL as soon as it said so; returns its id."""
    running = user.start(
        "run", "Change it", "--config", "team.yaml", "--write", "project", "--apply", "--verify", "grep -q new code.txt", "--json"
    )
    said: list[dict[str, object]] = []
    try:
        assert running.stdout is not None
        for line in running.stdout:
            said.append(json.loads(line))
            if said[-1]["type"] == event:
                break
        assert said[-1]["type"] == event, said[-1]
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    return str(said[-1]["run_id"])


@pytest.mark.parametrize("event", [*ALWAYS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_run_that_is_killed_is_finished_by_resume(user: User, event: str):
    """Whatever it was doing: exit 0, its bytes written once, no agent asked twice, no container left, undone byte for byte."""
    before = snapshot_of(user.cwd / "project")
    run = killed_at(user, event)
    listed = [json.loads(line) for line in user.massgen("runs", "--json").stdout.splitlines()]
    assert [(row["run"], row["status"], row["resumable"]) for row in listed] == [(run, "killed", True)]
    assert f"massgen resume {run}" in user.massgen("runs").stderr
    done = user.massgen("resume", "--json")
    assert done.returncode == 0, done.stderr
    assert (user.cwd / "project/code.txt").read_text() == "new\n"
    assert (user.cwd / "project/a b").read_text() == "x\n"
    assert events(done)[0]["type"] == "RunResumed"
    log = [json.loads(line) for line in user.massgen("show", run, "--json").stdout.splitlines()]
    kinds = [row["type"] for row in log]
    assert [row["answer"] for row in log if row["type"] == "AnswerGiven"] == ["agent1.1"]
    assert [kinds.count(kind) for kind in ("Selected", "Presented", "Applied", "RunFinished")] == [1, 1, 1, 1]
    assert labelled(f"massgen.run={run}") == []
    again = user.massgen("resume", run)
    assert (again.returncode, "has ended (applied)" in again.stderr) == (2, True)
    assert user.massgen("undo", run).returncode == 0
    assert snapshot_of(user.cwd / "project") == before


def test_resume_shows_a_run_as_if_it_had_never_stopped(user: User):
    """The summary has the votes of before, the readable folder the whole story, and the next start had said what to type."""
    run = killed_at(user, "VoteCast")
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
