"""SIGKILL of `massgen run` in the middle: nothing stays, nothing is written, the next start cleans up."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from tests.support.boxes import processes
from tests.support.user import User, agent, say, snapshot_of

pytestmark = pytest.mark.docker

QUIET = "sleep"
FLOOD = "exec cat /dev/zero; :"


def containers(pid: int) -> set[str]:
    """Those that this process started."""
    client = docker.from_env()
    try:
        found = client.containers.list(all=True, filters={"label": "massgen.owner"}, ignore_removed=True)
        return {c.id for c in found if c.labels["massgen.owner"].startswith(f"{pid}:")}
    finally:
        client.close()


def until(true: Callable[[], bool], seconds: float) -> bool:
    """Poll: what the engine and the kernel do, they do in their own time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return true()


@pytest.mark.parametrize("command", [QUIET, FLOOD], ids=["quiet", "flooding"])
def test_a_killed_run_leaves_no_container_and_an_untouched_project(tmp_path: Path, command: str):
    """Two seconds after SIGKILL no container is left; the project is as it was; the next run finds and removes the rest."""
    user = User(tmp_path / "home")
    user.write("project/code.txt", "old\n")
    mark = f"300.{secrets.randbelow(10**9):09}"  # a number that no other test's sleep has
    user.write("busy.yaml", [say(shell=f"echo draft > code.txt; {command} {mark}")])
    user.write("team.yaml", {"agents": [agent("one", "busy.yaml"), agent("two", "busy.yaml")]})
    before = snapshot_of(user.cwd / "project")
    running = user.start("run", "Change it", "--config", "team.yaml", "--write", "project", "--apply", "--json")
    try:
        assert running.stdout is not None
        tools = 0
        for line in running.stdout:
            tools += '"ToolStarted"' in line
            if tools == 2:
                break
        assert tools == 2
        ours = containers(running.pid)
        assert len(ours) >= 2
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    assert until(lambda: not (containers(running.pid) & ours), 2.0), containers(running.pid)
    assert snapshot_of(user.cwd / "project") == before
    assert processes(mark) == []

    state = user.home / ".local/state/massgen"
    assert list((state / "runs").glob("*/peers")), "the killed run's folder should still be there"
    user.write("quick.yaml", [say(answer="nothing to do"), say(final="nothing to do")])
    user.write("one.yaml", {"agents": [agent("one", "quick.yaml")]})
    again = user.massgen("run", "Say something", "--config", "one.yaml")
    assert again.returncode == 0, again.stderr
    assert list((state / "runs").glob("*/peers")) == []
    assert snapshot_of(user.cwd / "project") == before


@pytest.mark.parametrize("option", ["--json", "--debug"])
def test_a_reader_that_leaves_does_not_stop_or_hang_a_run(tmp_path: Path, option: str):
    """`massgen run … | head -1`: the run goes on in silence and ends with its own exit code."""
    user = User(tmp_path / "home")
    user.write("project/code.txt", "old\n")
    user.write("s.yaml", [say(shell="echo new > code.txt"), say(answer="done"), say(final="done")])
    user.write("team.yaml", {"agents": [agent("one", "s.yaml")]})
    running = user.start("run", "Change it", "--config", "team.yaml", "--write", "project", "--apply", option)
    read, other = (running.stdout, running.stderr) if option == "--json" else (running.stderr, running.stdout)
    assert read is not None
    assert read.readline()
    read.close()
    assert running.wait(60) == 0
    assert (user.cwd / "project/code.txt").read_text() == "new\n"
    assert other is not None
    other.close()
