"""One command under limits, as a user types it: bytes and exit codes pass through, nothing of the host changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import AGENT_UID
from sandbox.gitmask import ONE_COMMIT
from tests.docker.engine_view import labelled
from tests.support.user import BOUND, ROOT, User

pytestmark = pytest.mark.docker
PROGRAMS = {"massgen": ["-m", "massgen", "exec"], "sandbox": ["-m", "sandbox", "run"]}


@pytest.fixture
def user(tmp_path: Path) -> User:
    user = User(tmp_path / "home")
    user.write("project/a.txt", "old\n")
    user.write("project/.env", "SECRET=1\n")
    user.cwd = user.cwd / "project"
    return user


def run(user: User, *args: str, stdin: bytes = b"", program: str = "massgen") -> subprocess.CompletedProcess[bytes]:
    """One call, bytes in and out."""
    argv = [*BOUND, sys.executable, *PROGRAMS[program], *args]
    return subprocess.run(argv, cwd=user.cwd, env=user.env, input=stdin, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 7", 7), ("kill -9 $$", 137), ("exec /nowhere", 127), ("exec /etc/passwd", 126)],
)
def test_an_exit_code_is_not_lost(user: User, program: str, script: str, code: int) -> None:
    """The command's own, or as a shell would say it."""
    assert run(user, "--", "sh", "-c", script, program=program).returncode == code


def test_what_cannot_be_started_is_told_from_what_fails(user: User) -> None:
    """126 and 127 are the sandbox's own words too; 124 is time."""
    assert run(user, "--", "no-such-program").returncode == 127
    assert run(user, "--", "/etc/passwd").returncode == 126
    late = run(user, "-t", "0.5", "--", "sh", "-c", "echo early; sleep 30")
    assert (late.returncode, late.stdout) == (124, b"early\n")
    assert b"timeout" in late.stderr


def test_silence_and_floods_are_told_from_time(user: User) -> None:
    """Each limit has its own word, and says which option raises it; what was written until then is there."""
    silent = run(user, "--idle-timeout", "0.5", "--", "sh", "-c", "echo early; sleep 30")
    assert (silent.returncode, silent.stdout) == (124, b"early\n")
    assert b"--idle-timeout" in silent.stderr
    flood = run(user, "--output", "1m", "--", "sh", "-c", "yes")
    assert b"--output" in flood.stderr
    assert flood.returncode == 137
    assert len(flood.stdout) >= 1024**2


FORKS = "for i in $(seq 40); do sleep 9 & done; wait"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "script", "option"),
    [
        (["--pids-limit", "16"], FORKS, b"--pids-limit"),
        (["--memory", "64m"], "head -c 50m /dev/zero > /workspace/x", b"--disk"),
        (["--disk", "1m"], "head -c 2m /dev/zero > x; exit $?", b"--disk"),
    ],
)
def test_a_limit_is_named_by_a_word_of_ours(user: User, args: list[str], script: str, option: bytes) -> None:
    """Who reached it reads which option raises it, not what the library calls it; programs read the same."""
    if os.getuid() == 0:
        os.chown(user.cwd, AGENT_UID, AGENT_UID)  # an overlay
    done = run(user, *args, "--json", "--", "sh", "-c", script)
    assert done.returncode not in (0, 125), done.stderr
    assert option in done.stderr
    assert option in json.loads(done.stdout)["why"].encode()


@pytest.mark.slow
def test_a_stream_that_was_closed_is_something_else(user: User) -> None:
    """Without a stdin the command finds an empty one; without a stdout it runs all the same."""
    for closed in ("<&-", ">&-", "<&- >&- 2>&-"):
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, *PROGRAMS["sandbox"], "--", "sh", "-c", "cat; exit 7"]
        done = subprocess.run(shell, cwd=user.cwd, env=user.env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, b"", b"")


def test_bytes_pass_through_unchanged(user: User) -> None:
    """Every byte, both ways, beyond what is kept of an output; the two streams apart."""
    blob = bytes(range(256)) * 20_000
    done = run(user, "--", "sh", "-c", "cat; echo err >&2", stdin=blob)
    assert done.stdout == blob
    assert done.stderr == b"err\n"


@pytest.mark.parametrize("program", PROGRAMS)
def test_memory_that_runs_out_is_named(user: User, program: str) -> None:
    """137, and a word on what was reached and what to raise."""
    done = run(user, "--memory", "64m", "--", "python3", "-c", "x=bytearray(10**9)", program=program)
    assert done.returncode == 137
    assert b"oom" in done.stderr
    assert b"memory" in done.stderr
    assert run(user, "--memory", "64m", "--", "python3", "-c", "x=bytearray(10**7)", program=program).returncode == 0


def test_the_folder_is_a_draft_and_secrets_are_not_in_it(user: User) -> None:
    """The command works in the folder one stands in; the folder stays as it was."""
    done = run(user, "--", "sh", "-c", "pwd; cat a.txt; ls -A; echo new > a.txt; cat a.txt")
    assert done.stdout.decode().split() == [str(user.cwd), "old", "a.txt", "new"]
    assert (user.cwd / "a.txt").read_text() == "old\n"


CHANGES = r"""
echo new > a.txt; printf '\0\1\377' > bin; printf '\0two' > old.bin
mkdir d; echo x > d/x; chmod 755 d/x; ln -s d/x link; rm gone; seq 300000 > large
"""


def test_kept_changes_are_the_changes(user: User) -> None:
    """`git apply` of the patch gives byte for byte what the command left: text, binary, large, modes, links, removals."""
    user.write("gone", "x")
    (user.cwd / "gone").write_text("x\n")
    (user.cwd / "old.bin").write_bytes(b"\0one")
    patch = user.home / "changes.patch"
    assert run(user, "--keep-changes", str(patch), "--", "sh", "-c", CHANGES).returncode == 0
    assert (user.cwd / "gone").exists()
    subprocess.run(
        ["git", "apply", str(patch)], cwd=user.cwd, check=True, env={**user.env, "GIT_CEILING_DIRECTORIES": str(user.home)}
    )
    assert (user.cwd / "a.txt").read_text() == "new\n"
    assert (user.cwd / "bin").read_bytes() == b"\0\1\377"
    assert (user.cwd / "old.bin").read_bytes() == b"\0two"
    assert (user.cwd / "d/x").stat().st_mode & 0o111
    assert str((user.cwd / "link").readlink()) == "d/x"
    assert (user.cwd / "large").read_text() == "".join(f"{n}\n" for n in range(1, 300_001))
    assert not (user.cwd / "gone").exists()


IN_A_PART = "pwd; cat ../a.txt; ls ../.env; git log --format=%s; git status --short; echo new > made; echo new > ../a.txt"


@pytest.mark.parametrize("owner", [0, AGENT_UID])
def test_a_part_of_a_repository_is_none(user: User, owner: int) -> None:
    """In a folder of it git works, as do files above; what is withheld is withheld, and the patch is one for the repository."""
    if owner and os.getuid() != 0:
        pytest.skip("a user's own project is an overlay anyway")
    identity = ("-c", "user.name=u", "-c", "user.email=u@example.org")
    for words in (("init", "-q"), ("add", "a.txt"), (*identity, "commit", "-qm", "first")):
        subprocess.run(["git", "-C", user.cwd, *words], check=True, capture_output=True)
    part = user.cwd / "part"
    part.mkdir()
    for place in (user.cwd, *user.cwd.rglob("*")):
        if os.getuid() == 0:
            os.chown(place, owner, owner)
    user.cwd = part
    patch = user.home / "changes.patch"
    done = run(user, "--keep-changes", str(patch), "--", "sh", "-c", IN_A_PART)
    history = "first" if owner or os.getuid() else ONE_COMMIT
    assert done.stdout.decode().splitlines() == [str(part), "old", history], done.stderr
    assert patch.read_text().count("+++ b/") == 2
    assert "+++ b/part/made" in patch.read_text()
    alone = run(user, "--read", str(user.cwd.parent / "a.txt"), "--", "sh", "-c", "cat ../a.txt; ! touch ../a.txt && ls -A ..")
    assert alone.stdout.decode().split() == ["old", "a.txt", "part"], alone.stderr


def test_other_folders_are_shown_as_asked(user: User) -> None:
    """Read-only or as a draft, at their own places; variables only those that were named."""
    other = user.home / "other"
    other.mkdir()
    (other / "x").write_text("x")
    user.env["NAMED"], user.env["OTHER"] = "1", "2"
    program = f"! touch {other}/y 2>/dev/null && cat {other}/x && echo $NAMED$OTHER$SET"
    done = run(user, "--read", str(other), "--env", "NAMED", "--env", "SET=3", "--", "sh", "-c", program)
    assert (done.returncode, done.stdout) == (0, b"x13\n")


def test_where_a_folder_cannot_be_shown_nothing_runs(user: User) -> None:
    """The home folder, the system's own: the command starts in its workspace, and a word says so."""
    user.cwd = Path("/opt")
    done = run(user, "--", "pwd")
    assert (done.returncode, done.stdout) == (0, b"/workspace\n"), done.stderr
    assert b"/opt is where a container has its own system, and not shown" in done.stderr


def test_figures_and_the_object_say_what_happened(user: User) -> None:
    """For people on stderr, for programs on stdout."""
    done = run(user, "--stats", "--", "sh", "-c", "exit 3")
    assert b"ended" in done.stderr
    assert b"exited 3" in done.stderr
    program = "x = bytearray(50 * 1024**2); print('hi'); raise SystemExit(3)"
    found = json.loads(run(user, "--json", "--", "python3", "-c", program).stdout)
    assert (found["reason"], found["code"], found["stdout"]) == ("exited", 3, "hi\n")
    assert found["peak_of"] == "sandbox"
    assert 50 * 1024**2 < found["peak_memory_bytes"] < 4 * 1024**3
    assert found["peak_pids"] > 1
    assert [(m["path"], m["mode"]) for m in found["mounts"]] == [(str(user.cwd), "draft")]


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [
        (["--cpus", "9999"], 2, b"cpus"),
        (["--memory", "9000g"], 2, b"memory"),
        (["--image", "no-such-image-here"], 125, b"image"),
        (["--workdir", "/nowhere"], 2, b"no program can start in this folder"),
        (["--disk", "900t"], 2, b"with disk"),
        (["--runtime", "no-such-runtime"], 125, b"runtime"),
    ],
)
def test_bad_input_starts_nothing(user: User, args: list[str], code: int, word: bytes) -> None:
    """Each says what and what next."""
    done = run(user, *args, "--", "true")
    assert word in done.stderr.lower(), done.stderr
    assert done.returncode == code, done.stderr


def test_a_stopped_command_leaves_nothing(user: User) -> None:
    """SIGTERM: 143, no container, no process."""
    argv = [sys.executable, *PROGRAMS["massgen"], "--", "sh", "-c", "echo up; sleep 4321"]
    before = set(labelled("massgen.owner"))
    process = subprocess.Popen(argv, cwd=user.cwd, env=user.env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    process.stdout.close()
    mine = [c for c in labelled(f"massgen.owner={process.pid}") if c not in before]
    assert mine == []


def test_help_is_instant() -> None:
    """No engine client stands between a user and the options."""
    program = "import sys\nfrom sandbox.command import main\ntry:\n    main(['--help'], prog='x')\nexcept SystemExit:\n    pass\n"
    program += "assert not {'docker', 'requests', 'pydantic'} & set(sys.modules), 'heavy'"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--memory" in done.stdout
