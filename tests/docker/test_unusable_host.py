"""A machine whose own folders cannot be used: a disk that is full, one that is read-only, a file in a folder's place, no folder.

Each is said as what it is, with what to do, and never as a bug of ours or as a Python error number.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.user import BOUND, User, agent, say

pytestmark = pytest.mark.docker
TEAM = ["run", "q", "--config", "t.yaml", "--no-logs"]


@pytest.fixture
def user(tmp_path: Path) -> User:
    user = User(tmp_path / "home")
    user.write("s.yaml", [say(answer="done"), *[say(vote="$own")] * 4, say(final="done")])
    user.write("t.yaml", {"agents": [agent("a", "s.yaml")]})
    return user


def upon(user: User, mount: str, *args: str) -> subprocess.CompletedProcess[str]:
    """`massgen` in a mount namespace of its own, where `bad` is something else."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount what a container engine sees, too")
    bad = user.home / "bad"
    bad.mkdir()
    script = (
        f"mount -t tmpfs -o {mount} none {shlex.quote(str(bad))} && exec {shlex.join([sys.executable, '-m', 'massgen', *args])}"
    )
    argv = [*BOUND, "unshare", "-m", "sh", "-c", script]
    return subprocess.run(argv, cwd=user.cwd, env=user.env, capture_output=True, text=True, timeout=120, check=False)


def told(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 125, all these words, no traceback."""
    assert done.returncode == 125, done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert [word for word in ("Traceback", "bug", "[Errno") if word in done.stderr] == [], done.stderr


@pytest.mark.parametrize(("mount", "why"), [("ro", "Read-only"), ("size=8k", "No space"), ("size=16k", "No space")])
def test_runs_that_cannot_be_recorded_are_a_bug_of_ours(user: User, mount: str, why: str) -> None:
    """The state folder. At 16k there is room for the run's beginning and none for its end."""
    user.env["XDG_STATE_HOME"] = str(user.home / "bad")
    done = upon(user, mount, *TEAM)
    assert done.returncode == 125, done.stderr
    assert "make room" in done.stderr, done.stderr
    assert why in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(("mount", "why"), [("ro", "Read-only"), ("size=8k", "No space")])
@pytest.mark.parametrize("args", [TEAM, ["exec", "--", "true"]], ids=["run", "exec"])
def test_a_cache_that_takes_nothing_is_a_number(user: User, mount: str, why: str, args: list[str]) -> None:
    """The cache folder: what containers mount read-only lies in it."""
    user.env["XDG_CACHE_HOME"] = str(user.home / "bad")
    told(upon(user, mount, *args), str(user.home / "bad"), why, "XDG_CACHE_HOME")


@pytest.mark.parametrize(
    ("mount", "why"), [("ro", "cannot be written"), ("size=8k", "is full"), ("size=9m,nr_inodes=20", "is full")]
)
def test_doctor_finds_a_state_folder_ready_that_takes_no_run(user: User, mount: str, why: str) -> None:
    """What a run would fail over is failed here, with what to do."""
    user.env["XDG_STATE_HOME"] = str(user.home / "bad")
    done = upon(user, mount, "doctor", "--json")
    row = next(f for f in json.loads(done.stdout)["findings"] if f["name"] == "state folder")
    assert (done.returncode, row["state"]) == (1, "failed"), row
    assert why in row["detail"]
    assert "XDG_STATE_HOME" in row["remedy"]


def test_a_file_in_the_place_of_a_folder_is_a_riddle(user: User) -> None:
    """Of the cache, of the state; doctor says so in its table; what needs neither goes on."""
    bad = user.home / "file"
    bad.touch()
    cache, state = user.env["XDG_CACHE_HOME"], user.env.get("XDG_STATE_HOME", "")
    user.env["XDG_CACHE_HOME"] = str(bad)
    told(user.massgen(*TEAM), str(bad), "Not a directory", "XDG_CACHE_HOME")
    told(user.massgen("exec", "--", "true"), str(bad), "Not a directory", "XDG_CACHE_HOME")
    seen = user.massgen("doctor", "--json")
    rows = {row["name"]: row for row in json.loads(seen.stdout)["findings"]}
    assert (seen.returncode, rows["sandbox"]["state"]) == (1, "failed"), seen.stdout
    assert "XDG_CACHE_HOME" in rows["sandbox"]["detail"]
    user.env |= {"XDG_CACHE_HOME": cache, "XDG_STATE_HOME": str(bad)}
    told(user.massgen(*TEAM), str(bad), "Not a directory", "XDG_STATE_HOME")
    told(user.massgen("gc"), str(bad), "Not a directory")
    found = json.loads(user.massgen("doctor", "--json").stdout)["findings"]
    assert next(row["detail"] for row in found if row["name"] == "state folder") == f"{bad} is no folder"
    assert user.massgen("exec", "--", "true").returncode == 0
    user.env["XDG_STATE_HOME"] = state


def test_a_relative_cache_is_made_where_one_stands(user: User) -> None:
    """The XDG specification says to ignore such a value; an engine could not mount it anyway."""
    user.env |= {"XDG_CACHE_HOME": "relative", "XDG_STATE_HOME": "relative"}
    done = user.massgen("exec", "--", "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (user.cwd / "relative").exists()


@pytest.mark.parametrize("args", [["run", "q"], ["diff"], ["apply"], ["undo"], ["models"], ["doctor"], ["exec", "--", "true"]])
def test_a_folder_that_was_removed_under_a_shell_is_a_bug_of_ours(user: User, args: list[str]) -> None:
    """Exit code 2: the move is the user's."""
    gone = user.home / "gone"
    gone.mkdir()
    place = shlex.quote(str(gone))
    script = f"cd {place} && rmdir {place} && exec {shlex.join([sys.executable, '-m', 'massgen', *args])}"
    argv = [*BOUND, "sh", "-c", script]
    done = subprocess.run(argv, cwd=user.home, env=user.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "no longer there; cd to another" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
