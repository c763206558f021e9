"""The first thing a user does, as a user does it: `massgen demo --scripted`, then `diff`, `undo`, `apply`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.user import User, events

pytestmark = pytest.mark.docker


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path / "home")


def test_the_demo_fixes_its_project_and_every_next_step_works(user: User):
    """Bug fixed, tests green, one write mount, and the commands that the screen names do what they say."""
    done = user.massgen("demo", "--scripted")
    assert done.returncode == 0, done.stderr
    project = user.cwd / "massgen-demo"
    code = project / "listkit/__init__.py"
    assert "The bug was in `flatten`" in done.stdout or "was rewritten" in done.stdout
    for part in (
        "scripted replies, no model",
        "verify  pass, 4 passed; before: FAIL 2/4",
        "massgen undo",
        "+++ b/listkit/__init__.py",
    ):
        assert part in done.stderr, done.stderr
    assert "flat.append(flatten" not in code.read_text()
    logs = sorted((project / ".massgen/massgen_logs").iterdir())
    log = [json.loads(line) for line in (logs[-1] / "events.jsonl").read_text().splitlines()]
    leases = [e for e in log if e["type"] == "SandboxStarted" and any(m["mode"] == "write" for m in e["mounts"])]
    assert [e["role"] for e in leases] == ["lease"]
    made = [p.relative_to(project).as_posix() for p in project.rglob("*") if p.is_file()]
    expected = [".massgen-demo", "README.md", "listkit/__init__.py", "tests/test_listkit.py"]
    assert sorted(name for name in made if not name.startswith(".massgen/")) == expected

    assert user.massgen("diff", "--stat").stdout.startswith("listkit/__init__.py | +1 -")
    assert user.massgen("undo").returncode == 0
    assert "flat.append(flatten" in code.read_text()
    assert user.massgen("undo").returncode == 2
    assert user.massgen("apply").returncode == 0
    code.write_text("mine\n")
    conflict = user.massgen("undo")
    assert (conflict.returncode, code.read_text()) == (5, "mine\n"), conflict.stderr
    assert not list(project.glob(".massgen-lease*"))
    assert user.massgen("demo", "--scripted").returncode == 0
    assert code.read_text() == "mine\n"
    assert (user.cwd / "massgen-demo-2").is_dir()


def test_caches_and_env_files_that_agents_make_never_reach_the_project(user: User):
    """The tests run inside the draft, an `.env` is written there: the answer carries the one real change."""
    project = user.cwd / "p"
    project.mkdir()
    (project / "test_a.py").write_text("def test_a():\n    assert open('a.txt').read() == 'new\\n'\n")
    (project / "a.txt").write_text("old\n")
    (project / ".env").write_text("SECRET=mine\n")
    steps = [
        {"calls": [{"name": "shell", "args": {"command": "test ! -e .env && echo new > a.txt && python3 -m pytest -q"}}]},
        {"calls": [{"name": "shell", "args": {"command": "echo SECRET=stolen > .env; mkdir .ssh; echo k > .ssh/id_rsa; ls -A"}}]},
        {"when": {"phase": "coordination"}, "calls": [{"name": "new_answer", "args": {"content": "done"}}]},
        {"when": {"phase": "final"}, "text": "done"},
    ]
    (user.cwd / "s.yaml").write_text(json.dumps(steps))
    (user.cwd / "t.yaml").write_text("agent: {id: a, backend: {type: scripted, script: s.yaml}}\n")
    args = ["--config", "t.yaml", "--write", "p", "--verify", "python3 -m pytest -q", "--json", "Make the test pass"]
    done = user.massgen(*args)
    assert done.returncode == 0, done.stderr + done.stdout
    log = events(done)
    applied = [e for e in log if e["type"] == "Applied"]
    assert [e["files"] for e in applied] == [[str(project / "a.txt")]]
    assert (project / "a.txt").read_text() == "new\n"
    assert (project / ".env").read_text() == "SECRET=mine\n"
    assert sorted(p.name for p in project.iterdir()) == [".env", "a.txt", "test_a.py"]
    tools = [e for e in log if e["type"] == "ToolFinished"]
    assert [e["exit_code"] or 0 for e in tools] == [0, 0], tools
    assert log[-1]["type"] == "RunFinished"
