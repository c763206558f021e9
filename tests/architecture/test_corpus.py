"""The abuse corpus is whole: every number is attempted by a test, or its absence has a reason that everybody can read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.security.corpus import NOT_RUN, PROBES

TESTS = Path(__file__).resolve().parents[1]
MOST_NOT_RUN = 8


def marks(path: Path) -> Iterator[str]:
    """The numbers in `pytest.mark.probe(...)` decorators and parameters of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "probe":
            yield from (str(word.value) for word in node.args if isinstance(word, ast.Constant))


ATTEMPTED = {number for path in TESTS.rglob("test_*.py") for number in marks(path)}


def test_a_probe_that_nobody_attempts_is_caught() -> None:
    """Every number has a test or a reason, none has both, and few have reasons."""
    wanted = {f"{n:02}" for n in (*range(1, 21), 21, *range(22, 101))}
    assert set(PROBES) == wanted
    assert wanted - ATTEMPTED - set(NOT_RUN) == set()
    assert ATTEMPTED & set(NOT_RUN) == set()
    assert len(NOT_RUN) <= MOST_NOT_RUN


def test_a_probe_with_a_number_that_does_not_exist_is_caught() -> None:
    """A typo in a mark would count for nothing."""
    assert ATTEMPTED - set(PROBES) == set()
