"""Ctrl-C at every phase of a run, from a terminal's point of view: once, stop with the best answer saved; twice, now."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docker.engine_view import left_of
from tests.support.boxes import processes
from tests.support.user import User, agent, say, snapshot_of

pytestmark = pytest.mark.docker

Event = dict[str, Any]
PHASES: dict[str, Callable[[Event], bool]] = {
    "agents work": lambda e: e["type"] == "ToolStarted" and e["agent"] == "agent2",
    "one has answered": lambda e: e["type"] == "VoteCast",
    "final turn": lambda e: e["type"] == "ToolStarted" and "final words" in e["summary"],
    "verify": lambda e: e["type"] == "SandboxStarted" and e["role"] == "verify" and e["agent"] == "agent1",
    "write": lambda e: e["type"] == "LeaseGranted",
}
"""The event at which the user presses it."""
SLOW = [("one has answered", 2), ("final turn", 2), ("verify", 2)]
"""Twice, in the middle of something, is what the first phase tries, and once is tried in each."""


def prepared(home: Path, phase: str, mark: str) -> User:
    """A run that hangs in that phase until somebody stops it."""
    user = User(home)
    user.write("project/code.txt", "old\n")
    hang = f"sleep {mark}"
    first = [say(shell=hang)] if phase == "agents work" else []
    first += [say(shell="echo new > code.txt"), say(answer="done"), *[say(vote="agent1")] * 3]
    command = f"true final words; {hang}" if phase == "final turn" else "true final words"
    first += [{"when": {"phase": "final"}, "calls": [{"name": "shell", "args": {"command": command}}]}, say(final="done")]
    busy = phase in ("agents work", "one has answered")
    second = [say(shell=hang if busy else "true"), *[say(vote="agent1")] * 3]
    second[0]["when"]["answers"] = 0
    user.write("first.json", first)
    user.write("second.json", second)
    paths: dict[str, Any] = {"context_paths": [{"path": "project", "permission": "write"}]}
    if phase == "verify":
        paths["verify"] = hang
    user.write("team.json", {"agents": [agent("one", "first.json"), agent("two", "second.json")], "orchestrator": paths})
    return user


def press(process: subprocess.Popen[str]) -> None:
    """One Ctrl-C, and it has arrived: a second one that meets a pending first is no second one."""
    process.send_signal(signal.SIGINT)
    bit = 1 << (signal.SIGINT - 1)
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if not any(int(line.split()[1], 16) & bit for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))):
            return


def stopped(user: User, phase: str, times: int) -> tuple[int, list[Event]]:
    """The exit code and the events of a run that is stopped in that phase."""
    words = ("run", "go", "--config", "team.json", "--apply", "--json", "--no-logs")
    process = user.start(*words)
    assert process.stdout is not None
    said: list[Event] = []
    pressed = False
    for line in process.stdout:
        said.append(json.loads(line))
        if not pressed and PHASES[phase](said[-1]):
            pressed = True
            for _ in range(times):
                press(process)
    assert pressed, [event["type"] for event in said]
    process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize(
    ("phase", "times"),
    [
        pytest.param(phase, times, marks=pytest.mark.slow if (phase, times) in SLOW else ())
        for phase in PHASES
        for times in (1, 2)
    ],
)
def test_ctrl_c_loses_an_answer_or_leaves_something(tmp_path: Path, phase: str, times: int) -> None:
    """Exit 130, one end in the log, no container, process or half write; once, what was answered can be applied."""
    mark = f"600.{secrets.randbelow(10**9):09}"
    user = prepared(tmp_path / "home", phase, mark)
    before = snapshot_of(user.cwd / "project")
    code, said = stopped(user, phase, times)
    ends = [event for event in said if event["type"] == "RunFinished"]
    assert len(ends) == 1
    assert left_of(said[0]["run_id"], user.home) == []
    assert processes(mark) == []
    state = user.home / ".local/state/massgen"
    assert not list((state / "leases").glob("*"))
    assert not list((state / "runs").glob("*/peers"))
    code_txt = (user.cwd / "project/code.txt").read_text()
    answered = any(event["type"] == "AnswerGiven" for event in said)
    if phase == "write":
        written = any(event["type"] == "Applied" for event in said)
        assert (code_txt == "new\n") is written
        assert code == (130 if times == 2 and not written else code)
        assert ("in your project" in ends[0]["message"]) is (written and code == 130)
    else:
        assert code == 130, ends
        assert ends[0]["outcome"] == "stopped"
        assert snapshot_of(user.cwd / "project") == before
    assert answered is (phase != "agents work")
    if code_txt == "new\n":
        assert user.massgen("undo").returncode == 0
        assert snapshot_of(user.cwd / "project") == before
    elif answered and times == 1:
        kept = user.massgen("apply")
        assert kept.returncode == 0, kept.stderr
        assert (user.cwd / "project/code.txt").read_text() == "new\n"
