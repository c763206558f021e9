"""SECURITY.md can be followed: each promise names code that exists, and a test that exists."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

from sandbox.guarantees import TITLES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROMISES = PAGE.partition("\n## Engines\n")[0]
"""What follows it is what was seen of each engine, not what is promised."""
QUOTED = re.compile(r"`([\w./-]+?)(?:::(\w+))?`")


def missing(path: str, name: str | None) -> bool:
    """Whether the file, or the test of that name in it, is not there."""
    place = ROOT / path
    if not place.exists():
        return True
    if not name:
        return False
    functions = (n for n in ast.walk(ast.parse(place.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return name not in {function.name for function in functions}


def test_a_promise_without_code_or_attack_is_caught() -> None:
    """Every row of the two tables names at least one file of the product and one of the tests."""
    lines = PROMISES.splitlines()
    rows = [
        one.strip("| ").split(" | ") for one, next_ in pairwise(lines) if one.startswith("| ") and not next_.startswith("|--")
    ]
    assert len(rows) > 10
    for promise, code, attack in rows:
        paths = {path for path, _ in QUOTED.findall(code)}
        assert any(path.startswith(("sandbox/", "massgen/")) for path in paths), promise
        assert any(path.startswith("tests/") for path, _ in QUOTED.findall(attack)), promise


def test_a_guarantee_that_doctor_names_is_not_on_the_page() -> None:
    """A reader who sees a name in `doctor --json` finds who keeps it and what attacks it."""
    assert [name for name in TITLES if f"`{name}`" not in PAGE] == []


def test_a_file_or_test_that_is_gone_is_caught() -> None:
    """Everything that the page quotes with a folder in its name is there, test functions included."""
    named = [(path, name) for path, name in QUOTED.findall(PAGE) if "/" in path]
    assert [f"{path}::{name}" for path, name in named if missing(path, name)] == []
