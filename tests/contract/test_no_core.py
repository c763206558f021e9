"""A crash of the command itself: it holds the keys."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.user import User

KEY = "sk-CANARY-0123456789"


def test_a_crash_leaves_the_keys_in_a_core_file(tmp_path: Path) -> None:
    """A command that holds a key crashes where cores are wanted: the kernel takes none, wherever it would have gone.

    The same crash of a program that is not ours shows that one would have been taken here. The limit is what children inherit.
    """
    user = User(tmp_path / "home")
    if crashed([sys.executable, "-c", "print(flush=True); input()"], user, None)[0] != os.CLD_DUMPED:
        pytest.skip("this machine takes no cores of anybody")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        backend = {"type": "chatcompletion", "model": "m", "base_url": url, "api_key": KEY}
        user.write("team.yaml", {"agent": {"id": "a", "backend": backend}})
        how, limit = crashed(user.argv("models", "--config", "team.yaml"), user, silent)
    assert (how, limit) == (os.CLD_KILLED, ["0", "0"])
    holding = [path.name for path in user.home.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holding == ["team.yaml"]


def crashed(argv: list[str], user: User, asked: socket.socket | None) -> tuple[int, list[str]]:
    """How it ended, and its limit on cores: crashed when it has asked this server, or written a line."""
    wanting = ["/bin/sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", *argv]
    pipe = subprocess.PIPE
    with subprocess.Popen(wanting, cwd=user.cwd, env=user.env, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        if asked is None:
            process.stdout.readline()
        else:
            asked.settimeout(60)
            asked.accept()[0].close()
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        process.send_signal(signal.SIGSEGV)
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    (cores,) = [line.split()[-3:-1] for line in limits if line.startswith("Max core")]
    for path in user.cwd.glob("core*"):
        assert KEY.encode() not in path.read_bytes()
        path.unlink()
    return ended.si_code, cores
