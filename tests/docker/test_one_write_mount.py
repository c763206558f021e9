"""What a whole run may touch, seen from inside by the agents and from outside by whoever listens to the engine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.listener import Listener
from tests.support.user import User, agent, events, say, snapshot_of

pytestmark = pytest.mark.docker

LOOK = r"""
python3 - <<'END'
import json, os, socket
def attempt(work):
    try:
        return str(work())
    except OSError as error:
        return error.__class__.__name__ + ":" + str(error.errno)
found = {
    "net": attempt(lambda: socket.create_connection(("1.1.1.1", 53), 2)),
    "lookup": attempt(lambda: socket.getaddrinfo("example.org", 443)),
    "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
    "environment": sorted(os.environ),
    "canary": [p for p in os.listdir("/proc") if p.isdigit() and "CANARY" in attempt(lambda: open(f"/proc/{p}/environ").read())],
    "read": attempt(lambda: open(os.environ.get("READ", "../docs/note.txt"), "w")),
    "peers": attempt(lambda: open("/peers/planted", "w")),
    "home": attempt(lambda: os.listdir("/root")),
    "workspace": os.listdir("/workspace"),
    "secret": os.path.exists(".env"),
    "git": "CANARY" in attempt(lambda: open(".git/config").read()),
}
print("SEEN " + json.dumps(found))
open("mine.txt", "w").write("a draft\n")
open("/workspace/private.txt", "w").write("mine alone\n")
END
"""

CONFIG = "[core]\n\tcanary = CANARY\n"


@pytest.fixture
def user(tmp_path: Path) -> User:
    user = User(tmp_path / "home")
    user.env["OPENAI_API_KEY"] = "CANARY-key"
    user.env["CANARY"] = "in the host's environment"
    user.write("project/code.txt", "old\n")
    user.write("project/.env", "SECRET=CANARY\n")
    user.write("project/.git/config", CONFIG)
    user.write("docs/note.txt", "read me\n")
    team = [agent("first", "first.yaml"), agent("second", "second.yaml")]
    paths = [{"path": "project", "permission": "write"}, {"path": "docs", "permission": "read"}]
    user.write("team.yaml", {"agents": team, "orchestrator": {"context_paths": paths}})
    look = say(shell=LOOK)
    look["when"]["answers"] = 0
    change = say(shell="echo new > code.txt; ls /peers")
    change["when"]["answers"] = 0
    user.write("first.yaml", [look, change, say(answer="changed"), *[say(vote="$own")] * 4, say(final="done")])
    user.write("second.yaml", [look, *[say(vote="agent1")] * 4])
    return user


def seen_by(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    texts = [e["text"] for e in log if e["type"] == "ToolFinished" and "SEEN " in e["text"]]
    return [json.loads(text.split("SEEN ", 1)[1].splitlines()[0]) for text in texts]


@pytest.mark.probe("21")
def test_agents_can_reach_nothing_and_one_container_alone_can_write(user: User, listener: Listener):
    """While agents work: no network, key, sibling, host process or write. After the vote: one writable bind, the winner's."""
    before = snapshot_of(user.cwd)
    done = user.massgen("run", "Change the code", "--config", "team.yaml", "--apply", "--json")
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    log = events(done)
    looks = seen_by(log)
    assert len(looks) == 2
    for seen in looks:
        assert seen["net"].startswith(("OSError", "ConnectionRefused")), seen
        assert seen["lookup"].startswith("gaierror"), seen
        assert seen["read"] == "OSError:30", seen
        assert seen["peers"] == "OSError:30", seen
        assert seen["canary"] == [], seen
        assert not any("KEY" in name for name in seen["environment"]), seen
        assert len(seen["processes"]) < 10, seen
        assert (seen["workspace"], seen["secret"], seen["git"]) == ([], False, False), seen
    changed = {p for p, now in snapshot_of(user.cwd).items() if before.get(p) != now}
    assert changed <= {"project/code.txt", "project/mine.txt", "project"}

    writers = listener.writers(user.cwd / "project")
    assert len(writers) == 1, [w["Config"]["Labels"] for w in writers]
    labels = writers[0]["Config"]["Labels"]
    selected = next(e for e in log if e["type"] == "Selected")
    assert labels["massgen.phase"] == "final"
    assert labels["massgen.agent"] == selected["agent"]
    order = [e["type"] for e in log]
    started = next(i for i, e in enumerate(log) if e["type"] == "SandboxStarted" and e["container"] == writers[0]["Id"])
    assert order.index("Selected") < order.index("LeaseGranted") < started
    gone = [i for i, e in enumerate(log) if e["type"] == "SandboxEnded" and e["role"] == "agent"]
    assert len(gone) == 2
    assert max(gone) < order.index("LeaseGranted")
    ours = listener.of(log[0]["run_id"])
    assert {e["container"] for e in log if e["type"] == "SandboxStarted"} == {c["Id"] for c in ours}
    for container in ours:
        host = container["HostConfig"]
        assert (host["NetworkMode"], host["CapAdd"], host["CapDrop"]) == ("none", None, ["ALL"])
        assert (host["ReadonlyRootfs"], host["Privileged"], host["AutoRemove"]) == (True, False, True)
        assert "CANARY" not in json.dumps(container)
    assert "CANARY" not in done.stdout
    logs = b"".join(p.read_bytes() for p in (user.cwd / ".massgen").rglob("*") if p.is_file())
    assert b"CANARY" not in logs


def test_direct_writes_through_one_container_too(user: User, listener: Listener):
    """In `direct` the final turn itself holds the only writable bind; `.git` stays as it was and undo takes all of it back."""
    owner = 1234
    for path in [user.cwd / "project", *(user.cwd / "project").rglob("*")]:
        os.chown(path, owner, owner)
    for folder in [user.home, user.cwd, *user.cwd.parents]:
        if folder.is_relative_to(user.home.parent):
            folder.chmod(0o755)
    before = snapshot_of(user.cwd / "project")
    attack = {
        "when": {"phase": "final"},
        "calls": [{"name": "shell", "args": {"command": "echo direct > code.txt; mv .git .x; echo bad > .git/config; cat .env"}}],
    }
    script = json.loads((user.cwd / "first.yaml").read_text())
    user.write("first.yaml", [*script[:-1], attack, script[-1]])
    done = user.massgen("run", "Change the code", "--config", "team.yaml", "--write-mode", "direct", "--json")
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    log = events(done)
    writers = listener.writers(user.cwd / "project")
    assert len(writers) == 1, [w["Config"]["Labels"] for w in writers]
    assert writers[0]["Config"]["Labels"]["massgen.phase"] == "final"
    assert writers[0]["Config"]["User"] == f"{owner}:{owner}"
    order = [e["type"] for e in log]
    assert order.index("Selected") < order.index("LeaseGranted")
    project = user.cwd / "project"
    assert (project / "code.txt").read_text() == "direct\n"
    assert (project / "code.txt").stat().st_uid == owner
    assert (project / ".git/config").read_text() == CONFIG
    assert not (project / ".x").exists()
    assert "CANARY" not in done.stdout
    assert user.massgen("undo").returncode == 0
    assert snapshot_of(project) == before
