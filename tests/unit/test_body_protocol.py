"""The body over pipes: the protocol, commands, interrupts, what is left behind."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from massgen.body.family import JOB_MARK, job_mark
from tests.support.body_pipe import Body


@pytest.fixture
def body(tmp_path: Path) -> Iterator[Body]:
    """A body that starts in an empty folder."""
    with Body(tmp_path) as started:
        yield started


def alive(pid: str) -> bool:
    """Whether such a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in {"Z", "X"}


def wait_until_there(path: Path) -> str:
    """What a command writes to tell that it runs."""
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text(encoding="utf-8").endswith("\n")):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.005)
    return path.read_text(encoding="utf-8").strip()


def test_results_come_in_the_order_of_the_acts(body: Body) -> None:
    """One `next` for each batch, one result for each act, each with the id that it was given."""
    results = body.acts(("shell", {"command": "echo one"}), ("shell", {"command": "exit 3"}), ("nonsense", {}))
    assert [result["id"] for result in results] == ["0", "1", "2"]
    assert [result["exit_code"] for result in results] == [0, 3, None]
    assert results[0]["text"] == "one\n"
    assert results[1]["ok"], "an exit code is an answer, not a failure of the tool"
    assert "replace_function" in results[2]["text"]
    assert "locate" not in results[2]["text"]


def test_lines_that_are_not_of_the_protocol_are_ignored(body: Body) -> None:
    """A broken line neither kills the body nor counts as a step."""
    body.process.stdin.write(b'not json\n[1]\n{"other": 1}\n')
    assert body.ok("shell", command="echo on") == "on\n"


@pytest.mark.parametrize("act", ["text", 5, {"id": "1"}, {"id": "1", "name": "shell", "args": []}])
def test_a_malformed_act_is_a_result(body: Body, act: object) -> None:
    """The batch is answered whatever is in it."""
    body.write({"act": [act]})
    assert not body.read()[0]["ok"]


def test_a_command_cannot_speak_for_the_body(body: Body) -> None:
    """What a command prints is its output; the protocol's descriptors are out of its reach."""
    text = body.ok("shell", command="echo '{\"next\": []}'; ls -l /proc/self/fd; read line; echo got=$line")
    assert '{"next": []}' in text
    assert "got=" in text.splitlines()
    assert text.count("->") <= 5


def test_stderr_and_stdout_are_one_text_and_stdin_is_empty(body: Body) -> None:
    """A command that waits for input ends at once."""
    assert body.ok("shell", command="echo a; echo b >&2; cat; echo c") == "a\nb\nc\n"


def test_a_huge_output_keeps_head_and_tail_and_says_what_is_missing(body: Body) -> None:
    """Memory and answer stay small, the ends stay whole, the cut is a number."""
    result = body.act("shell", command="echo first; head -c 30000000 /dev/zero | tr '\\0' x; echo; echo last")
    assert result["text"].startswith("first\n")
    assert result["text"].endswith("last\n")
    assert len(result["text"]) < 34_000
    assert result["truncated_bytes"] == 30_000_012 - 32 * 1024
    assert f"{result['truncated_bytes']} bytes cut" in result["text"]


def test_a_command_past_its_deadline_is_stopped_with_its_output(body: Body) -> None:
    """Partial output, code 124, and it says why."""
    started = time.monotonic()
    result = body.act("shell", command="echo begun; sleep 60", timeout_s=1)
    assert time.monotonic() - started < 20
    assert not result["ok"]
    assert result["exit_code"] == 124
    assert result["text"].startswith("begun\n")
    assert "timed out after 1 s" in result["text"]


def test_no_command_gets_more_time_than_the_host_allows(tmp_path: Path) -> None:
    """What the model asks for is cut to what the environment says."""
    with Body(tmp_path, env={"MASSGEN_COMMAND_TIMEOUT_S": "1"}) as body:
        assert "timed out after 1 s" in body.refused("shell", command="sleep 60", timeout_s=5000)
        assert body.ok("shell", command="echo ${MASSGEN_COMMAND_TIMEOUT_S-unset}") == "unset\n"


def test_an_interrupt_stops_a_command_that_ignores_it(body: Body, tmp_path: Path) -> None:
    """TERM is trapped, so KILL follows; partial output comes back; the rest of the batch is not run."""
    body.start(
        ("shell", {"command": "trap '' TERM; echo working; echo $$ > pid; while :; do sleep 1; done"}),
        ("shell", {"command": "touch never"}),
    )
    pid = wait_until_there(tmp_path / "pid")
    body.write({"interrupt": "a peer answered"})
    first, second = body.read()
    assert first["text"].startswith("working\n")
    assert "a peer answered" in first["text"]
    assert not first["ok"]
    assert "not run" in second["text"]
    assert not (tmp_path / "never").exists()
    assert not alive(pid)
    assert body.ok("shell", command="echo next") == "next\n", "an interrupt concerns one batch only"


def test_an_interrupt_with_nothing_to_stop_is_forgotten(body: Body) -> None:
    """It must not hit the command after it."""
    body.write({"interrupt": "too late"})
    assert body.ok("shell", command="echo fine") == "fine\n"


def test_what_a_command_leaves_is_killed(body: Body, tmp_path: Path) -> None:
    """Also a daemon with a session of its own, reparented; and the command's end is not delayed by it."""
    daemon = "import os,time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
    daemon += "open('pid','w').write(f'{os.getpid()}\\n'); time.sleep(300)"
    (tmp_path / "daemon.py").write_text(daemon, encoding="utf-8")
    started = time.monotonic()
    text = body.ok("shell", command="python3 daemon.py; while [ ! -s pid ]; do sleep 0.01; done; sleep 200 & echo $!")
    assert time.monotonic() - started < 20
    assert not alive((tmp_path / "pid").read_text(encoding="utf-8"))
    assert not alive(text.splitlines()[0])
    assert "processes it left were ended" in text


def test_a_background_job_outlives_other_commands_but_not_the_body(body: Body, tmp_path: Path) -> None:
    """Killing leftovers spares live jobs and what they started; the end of the body spares nothing."""
    started = body.ok("shell", command="echo up; (setsid sleep 301 & echo $! > inner); echo $$ > pid; sleep 300", background=True)
    assert "job1" in started
    pid, inner = wait_until_there(tmp_path / "pid"), wait_until_there(tmp_path / "inner")
    body.ok("shell", command="true")
    assert alive(pid)
    assert alive(inner)
    assert "running" in body.ok("job", action="list")
    assert body.ok("job", action="read", id="job1").startswith("up\n")
    assert "still running" in body.ok("job", action="read", id="job1")
    body.write({"end": {"why": "done"}})
    assert body.process.wait(20) == 0
    assert not alive(pid)
    assert not alive(inner)


def test_a_process_is_known_by_its_job_between_two_programs(tmp_path: Path) -> None:
    """In `execve` a process has no environment for an instant, and would be killed as a stranger's leftover."""
    script = tmp_path / "again.sh"
    script.write_text('exec /bin/sh "$0"\n', encoding="utf-8")
    again = subprocess.Popen(["/bin/sh", str(script)], env={**os.environ, JOB_MARK: "job7"})
    try:
        assert {job_mark(again.pid) for _ in range(5000)} == {"job7"}
    finally:
        again.kill()
        again.wait()
    assert job_mark(again.pid) == ""


def test_a_job_can_be_awaited_and_killed(body: Body) -> None:
    """Waiting ends with the job; killing one says what it printed last, and it is gone from the list."""
    body.ok("shell", command="echo one; exit 4", background=True)
    result = body.act("job", action="read", id="job1", wait_s=30)
    assert result["exit_code"] == 4
    assert "exited with code 4" in result["text"]
    body.ok("shell", command="trap 'echo bye; exit' TERM; echo two; while :; do sleep 0.05; done", background=True)
    while "two" not in body.ok("job", action="read", id="job2", wait_s=0):
        pass
    assert "bye" in body.ok("job", action="kill", id="job2")
    assert "job1" in body.refused("job", action="read", id="job2")


def test_a_body_whose_host_is_gone_ends_with_everything(tmp_path: Path) -> None:
    """End of input in the middle of a command: nothing stays behind."""
    with Body(tmp_path) as body:
        body.start(("shell", {"command": "echo $$ > pid; sleep 300"}))
        pid = wait_until_there(tmp_path / "pid")
        body.process.stdin.close()
        assert body.process.wait(20) == 0
    assert not alive(pid)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "command"),
        ({"command": 5}, "must be a string"),
        ({"command": "true", "cwd": "/nowhere"}, "/nowhere"),
        ({"command": "true", "timeout_s": "soon"}, "whole number"),
        ({"command": "true", "background": "yes"}, "true or false"),
        ({"command": "a\0b"}, "NUL"),
    ],
)
def test_a_wrong_call_of_shell_says_what_is_wrong(body: Body, args: dict[str, object], says: str) -> None:
    """What, which, what next."""
    assert says in body.refused("shell", **args)


def test_the_body_runs_on_the_oldest_python_that_is_promised(tmp_path: Path) -> None:
    """3.9, when this machine has one."""
    old = [path for path in Path("~/.pyenv/versions").expanduser().glob("3.9*/bin/python3") if os.access(path, os.X_OK)]
    if not old:
        pytest.skip("there is no Python 3.9 here")
    (tmp_path / "m.py").write_text("def f():\n    return 1\n", encoding="utf-8")
    with Body(tmp_path, python=str(old[0])) as body:
        assert "3.9" in body.ok("shell", command=f"{old[0]} --version")
        body.ok("replace_function", path="m.py", code="def f():\n    return 2")
        assert body.ok("read_file", path="m.py") == "def f():\n    return 2\n"
        assert body.ok("locate", output="m.py:1: E") != "[]"
        assert "m.py" in body.ok("glob", pattern="*.py")
        assert "return 2" in body.ok("grep", pattern="return")
