"""Source trees that other people wrote, each with one bug put in, repaired through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.packages import break_it, source_tree
from tests.support.user import User, agent, events, say, snapshot_of

pytestmark = pytest.mark.docker

TAKE = "    return list(islice(iterable, n))"


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path / "home")


def test_a_team_repairs_more_itertools_with_one_read_and_one_write_path(user: User):
    """Three agents, one bug: only the write path changes, only by the winner's lease, and the package's own tests pass."""
    tree = source_tree("more-itertools", user.cwd)
    recipes = tree / "more_itertools/recipes.py"
    right = recipes.read_text()
    break_it(recipes, TAKE, TAKE.replace("n))", "n - 1))"))
    before = snapshot_of(tree)
    edit = {"path": "recipes.py", "old": TAKE.replace("n))", "n - 1))"), "new": TAKE}
    fix = {"when": {"phase": "coordination", "answers": 0}, "calls": [{"name": "edit_file", "args": edit}]}
    nudge = say(shell="! touch ../tests/planted 2>/dev/null && ls ../tests/test_recipes.py")
    user.write(
        "fixer.yaml", [fix, nudge, say(answer="take() lost its last item."), *[say(vote="$own")] * 4, say(final="Fixed take().")]
    )
    user.write("voter.yaml", [say(shell="ls"), *[say(vote="$latest")] * 4])
    user.write("idle.yaml", [say(answer="I would leave it as it is."), *[say(vote="agent1")] * 4])
    cases = " ".join(f"tests.test_recipes.{name}" for name in ("TakeTests", "TabulateTests", "NthTests"))
    verify = f"cd .. && python3 -m unittest -q {cases}"
    paths = [
        {"path": str(tree / "tests"), "permission": "read"},
        {"path": str(tree / "more_itertools"), "permission": "write"},
    ]
    team = [agent("fixer", "fixer.yaml"), agent("voter", "voter.yaml"), agent("idle", "idle.yaml")]
    user.write("team.yaml", {"agents": team, "orchestrator": {"context_paths": paths, "verify": verify}})
    done = user.massgen("run", "Repair take()", "--config", "team.yaml", "--json")
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    log = events(done)
    assert recipes.read_text() == right
    after = snapshot_of(tree)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == {"more_itertools/recipes.py"}
    verdicts = {e["answer"]: e["ok"] for e in log if e["type"] == "Verified"}
    assert verdicts["base"] is False
    assert verdicts["final"] is True
    writers = [e for e in log if e["type"] == "SandboxStarted" and any(m["mode"] == "write" for m in e["mounts"])]
    selected = next(e for e in log if e["type"] == "Selected")
    assert [(e["role"], e["agent"]) for e in writers] == [("lease", selected["agent"])]
    assert user.massgen("undo").returncode == 0
    assert snapshot_of(tree) == before


CASES = {
    "inflection": (
        "inflection/__init__.py",
        "    if number % 100 in (11, 12, 13):",
        "    if number % 100 in (11, 12):",
        "python3 -m pytest -q -x test_inflection.py",
    ),
    "humanize": (
        "src/humanize/lists.py",
        '        return f"{item_list[0]} and {item_list[1]}"',
        '        return f"{item_list[0]} and {item_list[0]}"',
        "PYTHONPATH=src python3 -m pytest -q tests/test_lists.py",
    ),
}


@pytest.mark.model
@pytest.mark.parametrize("package", [pytest.param(name, marks=pytest.mark.slow(turn=n)) for n, name in enumerate(CASES, start=1)])
def test_whatever_the_local_model_does_to_a_real_package_the_verdict_is_honest(user: User, package: str):
    """At least one repair is tried; exit 0 means that the package's tests pass; nothing but the lease changed the project."""
    tree = source_tree(package, user.cwd)
    path, right, wrong, verify = CASES[package]
    break_it(tree / path, right, wrong)
    before = snapshot_of(tree)
    user.write(
        "local.yaml",
        {"agents": [{"id": "small", "backend": {"type": "local"}}], "timeout_settings": {"orchestrator_timeout_seconds": 150}},
    )
    options = ["--config", "local.yaml", "--write", str(tree), "--apply", "--verify", verify, "--json"]
    done = user.massgen("run", "Fix the failing test.", *options, timeout_s=220)
    log = events(done)
    assert [e for e in log if e["type"] == "RepairAttempted"], done.stderr + done.stdout[-3000:]
    verdict = next((e for e in reversed(log) if e["type"] == "Verified" and e["answer"] == "final"), None)
    finished = log[-1]
    assert finished["type"] == "RunFinished"
    assert finished["exit_code"] == done.returncode
    assert (done.returncode == 0) == (verdict is not None and verdict["ok"])
    applied = {f for e in log if e["type"] == "Applied" for f in e["files"]}
    after = snapshot_of(tree)
    changed = {str(tree / p) for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    assert changed == applied
