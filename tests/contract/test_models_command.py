"""`massgen models`: what is there and answers, as a user asks; and model files from servers that hang up."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from massgen.models.reach import Place, reach
from tests.support.fake_provider import MODELS, FakeProvider, Server
from tests.support.user import User

KEY = "sk-CANARY-0123456789"


@pytest.fixture
def user(tmp_path: Path) -> User:
    user = User(tmp_path / "home")
    user.env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    return user


@pytest.mark.parametrize("backend", ["openai", "azure_openai", "claude", "gemini", "chatcompletion", "grok", "zai", "ollama"])
async def test_an_endpoint_that_answers_is_told_from_one_that_does_not(backend: str, provider: FakeProvider) -> None:
    """Each protocol's list of models; a refused key by its variable; a missing one without a question; nobody there."""
    place = {"backend": backend, "url": provider.url, "key": KEY, "key_source": "MY_KEY"}
    found = await reach(Place(**place, model="m"))  # type: ignore[arg-type]
    assert (found.state, found.models) == ("answers", MODELS)
    assert (found.offers("m"), found.offers("x")) == (True, False)
    provider.mode = "wrong_key"
    found = await reach(Place(**place))  # type: ignore[arg-type]
    assert found.state == "refused"
    assert "MY_KEY" in found.detail
    assert KEY not in found.detail
    provider.mode = "bad_request"
    assert (await reach(Place(**place))).state == "answers", "a server without a list is there all the same"  # type: ignore[arg-type]
    asked = len(provider.paths)
    assert (await reach(Place(**place | {"key": ""}))).state == "no key"  # type: ignore[arg-type]
    assert len(provider.paths) == asked
    gone = place | {"url": "http://127.0.0.1:9"}
    assert (await reach(Place(**gone))).state == "unreachable"  # type: ignore[arg-type]


def test_a_user_sees_agents_keys_and_servers(user: User, provider: FakeProvider) -> None:
    """Which agent's model is there, which is not, whose keys are where; no key is shown, and `--offline` asks nobody."""
    url = f"{provider.url}/v1"
    agents = [
        {"id": "there", "backend": {"type": "ollama", "model": "m", "base_url": url}},
        {"id": "absent", "backend": {"type": "vllm", "model": "other", "base_url": url}},
        {"id": "gone", "backend": {"type": "sglang", "model": "m", "base_url": "http://127.0.0.1:9/v1"}},
    ]
    user.write("team.yaml", {"agents": agents})
    user.write(".env", f"ANTHROPIC_API_KEY={KEY}\n")
    program = user.home / "versions" / "2.1.9"
    program.parent.mkdir()
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    (user.home / "claude").symlink_to(program)
    user.env["PATH"] = f"{user.home}:{user.env['PATH']}"
    done = user.massgen("models", "--config", "team.yaml", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(row["name"], row["state"]) for row in report["agents"]] == [
        ("there", "answers"),
        ("absent", "no such model"),
        ("gone", "unreachable"),
    ]
    keys = {row["name"]: row["key"] for row in report["providers"]}
    assert keys["claude"] == "ANTHROPIC_API_KEY in ./.env"
    assert keys["openai"] == "OPENAI_API_KEY is not set"
    assert keys["ollama"] == "needs none"
    (claude,) = [row for row in report["providers"] if row["name"] == "claude_code"]
    assert (claude["state"], claude["model"], claude["detail"]) == ("installed", "claude 2.1.9", str(program))
    asked = len(provider.paths)
    shown = user.massgen("models", "--config", "team.yaml", "--offline")
    assert len(provider.paths) == asked
    assert "ANTHROPIC_API_KEY in ./.env" in shown.stdout
    assert "CANARY" not in done.stdout + done.stderr + shown.stdout + shown.stderr
    doctor = user.massgen("doctor", "--json", "--image", "none:such")
    named = {finding["name"]: finding["detail"] for finding in json.loads(doctor.stdout)["findings"]}
    assert named["key for claude"].startswith("ANTHROPIC_API_KEY in ./.env")
    assert named["claude_code"] == f"2.1.9, {program}"
    assert "CANARY" not in doctor.stdout


def test_a_narrow_terminal_breaks_the_rows_of_what_is_not_there(user: User) -> None:
    """At 80 columns what has no key takes one line; nothing is said twice, and no separator stands alone."""
    user.env |= {"AZURE_OPENAI_API_KEY": KEY, "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:9", "COLUMNS": "80", "FORCE_COLOR": "1"}
    shown = user.massgen("models").stdout
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in shown.splitlines()]
    assert max(map(len, lines)) <= 80
    assert sum(line.endswith("_API_KEY is not set") and " no key " in line for line in lines) > 10
    assert not [line for line in lines if " no key " in line and not line.endswith("is not set")]
    assert not [line for line in lines if line.strip().startswith("·") or "· ·" in line or line.endswith("·")]
    azure = " ".join(lines[lines.index(next(line for line in lines if "azure_openai" in line)) :][:4])
    assert azure.count("http://127.0.0.1:9") == 1


def test_a_config_that_is_wrong_does_not_hide_the_rest(user: User) -> None:
    """A team whose key is missing is told; the providers are listed all the same. A named file that is wrong is an error."""
    user.write(".massgen/config.yaml", {"agent": {"id": "a", "backend": {"type": "openai", "model": "m"}}})
    report = json.loads(user.massgen("models", "--offline", "--json").stdout)
    assert "OPENAI_API_KEY" in report["error"]
    assert len(report["providers"]) > 10
    assert user.massgen("models", "--config", "none.yaml", "--offline").returncode == 2


FILE = b"GGUF" + bytes(range(256)) * 4096


class Flaky:
    """Serves FILE, `piece` bytes a connection; then it hangs up."""

    def __init__(self, piece: int, *, ranges: bool = True) -> None:
        self.piece = piece
        self.ranges = ranges
        self.content = FILE
        self.asked: list[str] = []
        self._server = Server(("127.0.0.1", 0), type("Serve", (_Serve,), {"flaky": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/models/tiny.gguf?download=true"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Serve(BaseHTTPRequestHandler):
    flaky: Flaky

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        flaky = self.flaky
        tag = f'"{hashlib.sha256(flaky.content).hexdigest()[:16]}"'
        asked = self.headers.get("range", "")
        flaky.asked.append(asked)
        same = self.headers.get("if-range", tag) == tag
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and flaky.ranges and same else 0
        rest = flaky.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("etag", tag)
        self.send_header("content-length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: flaky.piece])
        self.close_connection = True


@contextmanager
def flaky(piece: int, **more: bool) -> Iterator[Flaky]:
    server = Flaky(piece, **more)
    try:
        yield server
    finally:
        server.close()


def test_a_download_that_breaks_goes_on_where_it_ended(user: User) -> None:
    """Each connection brings a part; the file is whole, checked, and shown as it comes; the second time nothing is asked."""
    digest = hashlib.sha256(FILE).hexdigest()
    with flaky(300_000) as server:
        done = user.massgen("models", "pull", server.url, "--sha256", digest)
        assert done.returncode == 0, done.stderr
        path = Path(done.stdout.strip())
        assert path.read_bytes() == FILE
        assert server.asked == ["", "bytes=300000-", "bytes=600000-", "bytes=900000-"]
        assert "1.0 MB of 1.0 MB" in done.stderr
        assert user.massgen("models", "pull", server.url).stdout.strip() == str(path)
        assert len(server.asked) == 4
        assert [left.name for left in path.parent.iterdir() if "part" in left.name] == []
    assert str(path) in json.loads(user.massgen("models", "--offline", "--json").stdout)["providers"][-1]["models"]


def test_a_terminal_gets_a_bar(user: User) -> None:
    """And stdout the path alone, so that it can be used in a command."""
    host, terminal = pty.openpty()
    user.env["TERM"] = "xterm"
    with flaky(1 << 30) as server:
        done = subprocess.run(
            user.argv("models", "pull", server.url),
            env=user.env,
            cwd=user.cwd,
            stdout=subprocess.PIPE,
            stderr=terminal,
            check=True,
        )
    os.close(terminal)
    shown = os.read(host, 1 << 16).decode()
    os.close(host)
    assert "1.0/1.0 MB" in shown
    assert Path(done.stdout.decode().strip()).read_bytes() == FILE


def test_a_file_that_changed_meanwhile_is_begun_anew(user: User) -> None:
    """Half of one file and half of another are no file: also when the server knows no ranges."""
    with flaky(300_000) as server:
        server.piece = 0
        assert user.massgen("models", "pull", server.url).returncode == 3
        server.piece = 600_000
    with flaky(1 << 30, ranges=False) as server:
        folder = Path(user.env["XDG_CACHE_HOME"]) / "massgen" / "models"
        (folder / "tiny.gguf.part").write_bytes(b"GGUF" + b"old" * 1000)
        (folder / "tiny.gguf.part.etag").write_text('"other"')
        done = user.massgen("models", "pull", server.url)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).read_bytes() == FILE


def test_what_is_not_the_file_is_not_kept(user: User) -> None:
    """A web page, another hash, an address that names no model file."""
    with flaky(1 << 30) as server:
        assert user.massgen("models", "pull", server.url, "--sha256", "0" * 64).returncode == 3
        server.content = b"<html>" * 1000
        told = user.massgen("models", "pull", server.url)
        assert (told.returncode, "not a GGUF file" in told.stderr) == (3, True)
        assert user.massgen("models", "pull", server.url.replace("gguf", "zip")).returncode == 2
    assert list((Path(user.env["XDG_CACHE_HOME"]) / "massgen" / "models").glob("*.gguf")) == []
