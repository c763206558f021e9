"""A team of four backends on real containers: one vote, a bill that is right to the token, and no key anywhere."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_provider import FakeProvider
from tests.support.listener import Listener
from tests.support.team import BACKENDS, FIX, KEYS, MODELS, keys, project, providers, team, thinks
from tests.support.user import User, events

pytestmark = pytest.mark.docker

HUNT = """
python3 - <<'END'
import os, re
crash = 'ulimit -c unlimited; exec python3 -c "import ctypes; ctypes.string_at(0)"'
dumped = os.WCOREDUMP(os.waitpid(os.posix_spawnp("sh", ["sh", "-c", crash], dict(os.environ)), 0)[1])
wanted = re.compile(rb"CANAR[Y]-[0-9a-z]")
hits = []
def look(path):
    try:
        with open(path, "rb") as file:
            if wanted.search(file.read(1 << 20)):
                hits.append(path)
    except OSError:
        pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline", "maps"):
        look(f"/proc/{pid}/{name}")
for top in ("/workspace", "/tmp", "/peers", "/run", "/dev/shm", "/home", "/etc", os.getcwd()):
    for folder, _, names in os.walk(top):
        for name in names:
            look(os.path.join(folder, name))
            if name.startswith("core"):
                hits.append(os.path.join(folder, name))
print("DUMPED", dumped, "HITS", hits, "VARIABLES", sorted(name for name in os.environ if "KEY" in name))
END
"""


PICTURE = b"\x89PNG\r\n\x1a\n\0\0 a picture"
SEEN = base64.b64encode(PICTURE).decode()


@pytest.fixture
def user(tmp_path: Path) -> User:
    user = User(tmp_path / "home")
    project(user.cwd / "p")
    return user


def configured(user: User, found: dict[str, FakeProvider], **orchestrator: Any) -> None:
    """The team's file, and a key for each: two in the environment, one in ./.env, one in the user's own folder."""
    config = team(found, **orchestrator)
    for one in config["agents"]:
        one["backend"]["api_key"] = "${" + KEYS[one["backend"]["type"]] + "}"
    user.write("team.yaml", config)
    values = keys("sk-CANARY-{}7f3a9")
    for variable in ("OPENAI_API_KEY", "GEMINI_API_KEY"):
        user.env[variable] = values[variable]
    user.write(".env", f"# mine\nexport ANTHROPIC_API_KEY='{values['ANTHROPIC_API_KEY']}'\n")
    own = user.home / ".config" / "massgen"
    own.mkdir(parents=True)
    (own / ".env").write_text(f"MASSGEN_API_KEY={values['MASSGEN_API_KEY']}\n")


def holders(*folders: Path) -> list[str]:
    """Files with a key in them, but for the two that the user wrote."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != ".env"]
    return [str(path) for path in files if b"CANARY-" in path.read_bytes().replace(HUNT.encode(), b"")]


def command_lines() -> list[str]:
    """Processes of this machine that have a key on their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = place.read_bytes()
        except OSError:
            continue
        if b"sk-CANARY" in text:
            found.append(text.decode(errors="replace"))
    return found


@pytest.mark.probe("49")
def test_the_bill_is_right_to_the_token_and_no_key_is_anywhere(user: User, listener: Listener):
    """Four protocols, one vote. What the servers counted is what the table says. A picture in the project is seen by its model.

    Their keys are in no container, no prompt, no event, no file of ours, no command line; what crashes inside leaves no core.
    """
    with providers() as found:
        configured(user, found)
        on_command_lines: list[str] = []
        hunter = thinks(HUNT, FIX, answer="use extend")

        def hunt(body: dict[str, Any]) -> Any:
            on_command_lines.extend(command_lines())
            return hunter(body)

        found["openai"].think = hunt
        (user.cwd / "p" / "logo.png").write_bytes(PICTURE)
        for kind, provider in found.items():
            if kind != "openai":
                provider.think = thinks(("read_file", {"path": "logo.png"}), answer=f"{kind} says: use extend.")
        names = ",".join(f"with-{kind}" for kind in BACKENDS)
        args = ["--config", "team.yaml", "--agents", names, "--write", "p", "--max-cost", "50"]
        config = json.loads((user.cwd / "team.yaml").read_text())
        config["budget"] = {"prices": {model: {"input": 1, "output": 2, "cached": 0.5} for model in MODELS.values()}}
        user.write("team.yaml", config)
        done = user.massgen("run", "Make the tests pass", *args, "--verify", "python3 -m pytest -q")
        assert done.returncode == 0, done.stderr
        counted = [tuple(map(sum, zip(*provider.told, strict=True))) for provider in found.values()]
        requests = [json.dumps(request) for provider in found.values() for request in provider.requests]
        headers = [json.dumps(header) for provider in found.values() for header in provider.headers]
        calls = sum(len(provider.told) for provider in found.values())

    assert "is fixed" in done.stdout
    assert all(any(SEEN in str(asked) for asked in found[kind].requests) for kind in found if kind != "openai")
    for provider in found.values():
        assert len({json.dumps(request["tools"]) for request in provider.requests}) == 1, "the provider's cache begins with them"
    total = tuple(map(sum, zip(*counted, strict=True)))
    (last,) = [line.split() for line in done.stderr.splitlines() if line.strip().startswith("all ")]
    assert tuple(int(figure.replace(",", "")) for figure in last[1:6]) == (calls, *total)
    (log,) = (user.cwd / ".massgen" / "massgen_logs").iterdir()
    rows = json.loads((log / "result.json").read_text())["costs"]
    for kind, (given, cached, output, reasoning) in zip(found, counted, strict=True):
        own = [row for row in rows if row["agent"] == f"with-{kind}"]
        figures = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
        assert tuple(sum(row[name] for row in own) for name in figures) == (given, cached, output, reasoning), kind
        assert sum(row["cost_usd"] for row in own) > 0
    assert {row["phase"] for row in rows if row["agent"] == "with-openai"} == {"coordination", "final"}
    assert sum(row["unpriced_calls"] for row in rows) == 0
    shown = user.massgen("show").stderr
    assert " ".join(last) in " ".join(shown.split())

    assert all("sk-CANARY" in header for header in headers), "each server was asked with its own key"
    assert not [request for request in requests if "sk-CANARY" in request]
    told = [e for e in map(json.loads, (log / "events.jsonl").read_text().splitlines()) if e["type"] == "ToolFinished"]
    (hunted,) = [e["text"] for e in told if "HITS" in e["text"]]
    assert "DUMPED False HITS [] VARIABLES []" in hunted
    assert on_command_lines == []
    assert "CANARY" not in done.stderr + done.stdout + shown
    assert "sk-CANARY" not in json.dumps(listener.created)
    assert holders(user.home, user.cwd) == []


def test_one_refused_key_and_one_dead_provider_do_not_stop_the_others(user: User):
    """Two providers quote the wrong key, a third is not there: each is told without the key and with the place it came from."""
    with providers() as found:
        configured(user, found)
        found["claude"].mode = "wrong_key"
        found["gemini"].mode = "wrong_key"
        config = json.loads((user.cwd / "team.yaml").read_text())
        config["agents"][3]["backend"] |= {"base_url": "http://127.0.0.1:9/v1"}
        config["timeout_settings"] = {"agent_timeout_seconds": 4}
        user.write("team.yaml", config)
        done = user.massgen("run", "Make the tests pass", "--config", "team.yaml", "--write", "p", "--json")
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    log = events(done)
    out = {e["agent"]: e["why"] for e in log if e["type"] == "AgentExcluded"}
    assert out.keys() == {"agent2", "agent3", "agent4"}
    assert "ANTHROPIC_API_KEY" in out["agent2"]
    assert "GEMINI_API_KEY" in out["agent3"]
    assert next(e for e in log if e["type"] == "Selected")["agent"] == "agent1"
    assert "sk-CANARY" not in done.stdout + done.stderr
    assert holders(user.home, user.cwd) == []
