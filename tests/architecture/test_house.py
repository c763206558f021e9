"""What the scripts, the lock and the wheel promise to people who have none of our machines."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL = [ROOT / ".ci/run", *sorted(path for path in (ROOT / "scripts").rglob("*") if path.is_file())]
SHELL = [path for path in SHELL if path.suffix in {"", ".sh"}]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name(path: Path) -> str:
    """As a test's id."""
    return str(path.relative_to(ROOT))


def canonical(requirement: str) -> str:
    """The name of a requirement as the index spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]).lower()


def test_an_index_address_in_the_lock_is_caught() -> None:
    """The lock names no index, mirror, folder or host: whoever installs decides where packages come from."""
    assert [line for line in LOCK.splitlines() if re.search(r"index|find-links|trusted-host|://|^-", line)] == []


def test_a_package_without_a_hash_is_caught() -> None:
    """Every package of the lock is pinned exactly, with at least one hash."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK[LOCK.index("\n") + 1 :])
    assert [entry for entry in entries if not re.match(r"[A-Za-z0-9._-]+==\S+ \\\n +--hash=sha256:[0-9a-f]{64}", entry)] == []


def test_a_dependency_that_was_not_locked_is_caught() -> None:
    """What pyproject.toml asks for, extras included, is in the lock."""
    asked = [*PROJECT["dependencies"], *(item for extra in PROJECT["optional-dependencies"].values() for item in extra)]
    locked = {canonical(line) for line in LOCK.splitlines() if "==" in line}
    assert {canonical(item) for item in asked} - locked == set()


@pytest.mark.parametrize("script", SHELL, ids=name)
def test_a_script_that_bash_cannot_read_is_caught(script: Path) -> None:
    """`bash -n` accepts it, and what is meant to be run can be."""
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if script.read_text(encoding="utf-8").startswith("#!"):
        assert os.access(script, os.X_OK)
        assert "set -euo pipefail" in script.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=name)
def test_a_test_that_does_not_say_what_it_holds_is_caught(path: Path) -> None:
    """Every test has a docstring that states its property."""
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert [node.name for node in functions if node.name.startswith("test_") and not ast.get_docstring(node)] == []


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in the wheel that this tree builds."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return set(archive.namelist())


def test_a_wheel_that_lacks_what_a_clone_has_is_caught(wheel: set[str]) -> None:
    """Prompts, the demo project, examples and what images are built from are shipped, not only the Python files."""

    def below(folder: str, shipped_as: str) -> set[str]:
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {f"{shipped_as}/{path.relative_to(ROOT / folder)}" for path in files}

    folders = {"massgen": "massgen", "sandbox": "sandbox", "configs": "massgen/configs", "images": "massgen/images"}
    wanted = set().union(*(below(folder, shipped_as) for folder, shipped_as in folders.items()))
    wanted |= {f"massgen/{name}" for name in ("Dockerfile", "scripts/images", "scripts/lib/common.sh", "scripts/lib/image.sh")}
    assert {path for path in wanted if ".pytest_cache" not in path} - wheel == set()


def test_a_wheel_that_ships_caches_is_caught(wheel: set[str]) -> None:
    """Nothing of a developer's machine is in the wheel."""
    assert [path for path in wheel if re.search(r"__pycache__|\.pyc$|_cache/|\.venv|^tests/", path)] == []
