"""An agent that passes the verify command by editing the tests: it is said to everybody, and protected tests are not edited."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.user import User, agent, events, say, snapshot_of

pytestmark = pytest.mark.docker

TEST = "import sys\nsys.path.insert(0, '.')\nimport code_\nassert code_.two() == 2, 'it is not two'\n"


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A project with a bug, and an agent that would rather change its test."""
    user = User(tmp_path / "home")
    user.write("project/code_.py", "def two():\n    return 3\n")
    user.write("project/tests/test_code.py", TEST)
    cheat = say(shell="sed -i 's/== 2/== 3/' tests/test_code.py; echo '# better' >> code_.py; python3 tests/test_code.py")
    user.write("cheat.json", [cheat, say(answer="all tests pass"), *[say(vote="agent1")] * 3, say(final="All tests pass.")])
    return user


def config(user: User, **path: object) -> None:
    """With what else the write path says."""
    paths = {"context_paths": [{"path": "project", "permission": "write", **path}], "verify": "python3 tests/test_code.py"}
    user.write("team.json", {"agents": [agent("cheat", "cheat.json")], "orchestrator": paths})


def test_a_verify_command_passed_by_changed_tests_looks_like_any_other(user: User) -> None:
    """Each verdict says it, the progress says it, and so does the summary: the user reads it before `massgen apply`."""
    config(user)
    done = user.massgen("run", "Fix it", "--config", "team.json", "--write-mode", "review", "--json")
    assert done.returncode == 0, done.stderr
    verdicts = {e["answer"]: (e["ok"], e["tests_changed"]) for e in events(done) if e["type"] == "Verified"}
    assert verdicts == {"base": (False, False), "agent1.1": (True, True), "final": (True, True)}
    done = user.massgen("run", "Fix it", "--config", "team.json", "--write-mode", "review")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("changed the tests") == 2
    assert "the tests themselves were changed" in done.stderr


def test_protected_tests_are_verified_as_the_agent_left_them(user: User) -> None:
    """They are as the project has them: the cheat fails like the project does, is told apart from a pass, and changes no test."""
    config(user, protected_paths=["tests"])
    before = snapshot_of(user.cwd / "project")
    done = user.massgen("run", "Fix it", "--config", "team.json", "--write-mode", "apply", "--json")
    assert done.returncode == 1, done.stderr
    verdicts = {e["answer"]: (e["ok"], e["tests_changed"]) for e in events(done) if e["type"] == "Verified"}
    assert set(verdicts.values()) == {(False, False)}
    now = snapshot_of(user.cwd / "project")
    assert {p for p in now if now[p] != before.get(p)} <= {"code_.py"}
    assert now.keys() == before.keys()
