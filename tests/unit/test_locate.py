"""From what a test run prints to the function that may hold the bug, and to the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from massgen.agent.counts import Counts, parse_counts
from massgen.agent.testrun import TestRun, shortened
from massgen.body.locate import locate
from tests.support.buggy import PYTEST_LONG_RAISED, PYTEST_SHORT, UNITTEST, write_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project")


def named(output: str, root: Path) -> list[str]:
    return [f"{item['path']}:{item['name']}" for item in locate(output, str(root))]


@pytest.mark.parametrize("output", [PYTEST_SHORT, UNITTEST])
def test_a_failed_assertion_leads_to_the_function_on_its_line(project: Path, output: str) -> None:
    """No frame of the project is in the traceback; the name in the failing line is."""
    assert named(output.replace("{root}", str(project)), project)[0] == "lists.py:flatten"


def test_an_exception_leads_to_its_deepest_frame_in_the_project(project: Path) -> None:
    """Also when the name is never mentioned in the test; installed code and tests do not count."""
    assert named(PYTEST_LONG_RAISED, project)[0] == "lists.py:double"
    text = f'File "/usr/lib/python3/json/x.py", line 3, in y\n  File "{project}/lists.py", line 8, in z\n'
    text += '  File "/elsewhere/site-packages/q.py", line 1, in q'
    assert named(text, project) == ["lists.py:flatten"]


def test_a_method_behind_a_class_and_a_helper_below_are_suspected(tmp_path: Path) -> None:
    """`Box(1).size` names the class and the method; what the method calls comes after it."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "pkg/box.py").write_text(
        "class Box:\n    def __init__(self, n):\n        self.n = n\n    def size(self):\n        return scaled(self.n)\n"
        "\ndef scaled(n):\n    return n + 1\n",
        encoding="utf-8",
    )
    (tmp_path / "tests/check_box.py").write_text(
        "from pkg.box import Box\ndef test_size():\n    assert Box(1).size() == 1\n", encoding="utf-8"
    )
    found = named("tests/check_box.py:3: in test_size\n", tmp_path)
    assert found[0] == "pkg/box.py:Box.size"
    assert set(found) == {"pkg/box.py:Box.size", "pkg/box.py:Box.__init__", "pkg/box.py:scaled"}


def test_nothing_to_go_by_gives_nothing(project: Path) -> None:
    """Broken files, escaping paths, no frames: an empty list, no exception."""
    (project / "broken.py").write_text("def f(:\n", encoding="utf-8")
    assert named("", project) == []
    assert named("broken.py:1: SyntaxError\n../../etc/x.py:1: Error\n/etc/passwd.py:1: E\n", project) == []


@pytest.mark.parametrize(
    ("output", "tally"),
    [
        (PYTEST_SHORT, Counts(passed=2, failed=1)),
        (PYTEST_LONG_RAISED, Counts(passed=3, failed=1)),
        (UNITTEST, Counts(passed=2, failed=2)),
        ("Ran 4 tests in 0.1s\n\nOK\n", Counts(passed=4, failed=0)),
        ("\x1b[32m\x1b[1m5 passed\x1b[0m\x1b[32m in 0.01s\x1b[0m", Counts(passed=5, failed=0)),
        ("===== 2 errors in 0.12s =====", Counts(passed=0, failed=2)),
        ("make: *** [check] Error 2", None),
    ],
)
def test_figures_are_read_from_both_runners(output: str, tally: Counts | None) -> None:
    """Errors are failures; skipped tests are neither; no summary is None."""
    assert parse_counts(output) == tally


@pytest.mark.parametrize(
    ("text", "code", "nothing"),
    [
        ("no tests ran in 0.01s", 5, True),
        ("/usr/bin/python3: No module named pytest", 1, True),
        ("bash: make: command not found", 127, True),
        ("Ran 0 tests in 0.000s\n\nOK", 0, True),
        (PYTEST_SHORT, 1, False),
        ("Error: assertion", 1, False),
    ],
)
def test_a_project_without_tests_is_known(text: str, code: int, nothing: bool) -> None:
    """Nothing that ran is no failure to repair."""
    assert TestRun(ok=code == 0, text=text, exit_code=code, seconds=0.1).nothing is nothing


def test_progress_is_fewer_failures_or_more_passed_before_the_first() -> None:
    """With -x one test fails always: then more passed ones are progress; a run without figures never is."""

    def run(text: str, *, ok: bool = False) -> TestRun:
        return TestRun(ok=ok, text=text, exit_code=0 if ok else 1, seconds=1)

    before = run("1 failed, 5 passed in 1s")
    assert run("1 failed, 6 passed in 1s").better_than(before)
    assert run("6 passed in 1s", ok=True).better_than(before)
    assert not run("1 failed, 5 passed in 1s").better_than(before)
    assert not run("2 failed, 50 passed in 1s").better_than(before)
    assert not run("killed").better_than(before)


def test_output_is_shortened_to_what_the_model_needs() -> None:
    """No rules, dots, times or addresses; 800 head and 350 tail at most."""
    text = shortened(PYTEST_SHORT.replace("E   assert", "E   <X at 0x7f12345678ab> assert"))
    assert text.startswith("test_nested\ntest_lists.py:9: in test_nested\n")
    for gone in ("===", "[100%]", "0.05s", "0x7f"):
        assert gone not in text
    assert "1 failed, 2 passed" in text
    assert len(shortened("line\n" * 10_000)) <= 1200
