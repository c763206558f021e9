"""Reading test figures, and what a finished verify command means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massgen.agent import prompts
from massgen.agent.counts import Counts, parse_counts
from massgen.coordination import verify
from massgen.coordination.final import is_worse
from massgen.coordination.verify import looks_like_test, verdict_of, without_protected
from massgen.events.types import Verified
from sandbox.outcome import Outcome, Output
from sandbox.snapshot import Entry, Snapshot

OUTPUT = Path(__file__).parent / "test_output"


@pytest.mark.parametrize(
    ("text", "passed", "failed"),
    [
        ("===== 41 passed in 0.12s =====", 41, 0),
        ("2 failed, 39 passed, 1 skipped, 3 warnings in 61.02s (0:01:01)", 39, 2),
        ("== 1 failed, 3 passed, 1 error in 0.5s ==", 3, 2),
        ("=== 1 passed, 2 deselected, 1 xfailed in 1.00s ===", 1, 0),
        ("\x1b[32m\x1b[1m3 passed\x1b[0m\x1b[32m in 0.01s\x1b[0m", 3, 0),
        ("F.\n1 failed in 0.1s\n\n1 passed in 0.1s", 1, 0),
        ("Ran 5 tests in 0.001s\n\nOK", 5, 0),
        ("Ran 5 tests in 0.001s\n\nOK (skipped=2)", 3, 0),
        ("Ran 7 tests in 0.001s\n\nFAILED (failures=1, errors=2, skipped=1)", 3, 3),
        ("Ran 1 test in 0.000s\n\nFAILED (unexpected successes=1)", 0, 1),
    ],
)
def test_figures_of_known_runners_are_read(text: str, passed: int, failed: int) -> None:
    """Pytest and unittest summaries, coloured or not; the last one counts; errors are failures."""
    assert parse_counts(f"noise\n{text}\n") == Counts(passed=passed, failed=failed)


@pytest.mark.parametrize(
    ("name", "passed", "failed"),
    [
        ("unittest_fail", 1, 1),
        ("jest_fail", 2, 1),
        ("jest_coloured_fail", 2, 1),
        ("jest_pass", 1, 0),
        ("node_fail", 1, 1),
        ("cargo_fail", 2, 1),
        ("go_verbose_fail", 2, 2),
        ("go_json_fail", 2, 2),
        ("junit_pytest_fail", 1, 1),
    ],
)
def test_figures_are_read_from_what_runners_really_print(name: str, passed: int, failed: int) -> None:
    """Output of go 1.19, cargo, jest 29, node 20 and Python 3.11, as it came, with other words before and after it."""
    text = (OUTPUT / f"{name}.txt").read_text(encoding="utf-8")
    assert parse_counts(text) == Counts(passed=passed, failed=failed)
    assert parse_counts(f"make: entering\n{text}\nmake: *** [test] Error 1\n") == Counts(passed=passed, failed=failed)


def test_packages_are_not_called_tests() -> None:
    """`go test` alone tells of packages: their figures say so wherever they are shown."""
    text = (OUTPUT / "go_fail.txt").read_text(encoding="utf-8")
    assert parse_counts(text) == Counts(passed=1, failed=1, counted="packages")
    verdict = verdict_of(Outcome(reason="exited", exit_code=1, stdout=Output(head=text.encode())))
    assert verdict.summary == "FAIL 1/2 packages"
    assert prompts.verdict(verdict) == "FAIL (1 package failed, 1 package passed)"
    assert prompts.verdict(replace(verdict, ok=True, passed=5)) == "PASS (5 packages passed)"


def test_the_runner_that_speaks_last_counts() -> None:
    """Of a command that runs several; parts of one are added up."""
    cargo, jest = ((OUTPUT / f"{name}.txt").read_text(encoding="utf-8") for name in ("cargo_fail", "jest_pass"))
    assert parse_counts(cargo + jest) == Counts(passed=1, failed=0)
    assert parse_counts(jest + cargo) == Counts(passed=2, failed=1)


def test_figures_in_parts_are_not_added_up_over_a_gap() -> None:
    """Output that was cut in its middle may lack packages: no figures are better than too few."""
    cargo = (OUTPUT / "cargo_fail.txt").read_bytes()
    cut = Output(head=cargo, tail=cargo, cut_bytes=9).text
    assert parse_counts(cut) is None
    assert parse_counts(cut + "\n1 passed in 0.1s\n") == Counts(passed=1, failed=0)


def test_a_junit_report_that_is_printed_is_read() -> None:
    """The totals where there are some, else the sum of the suites."""
    suites = '<testsuite tests="3" failures="1" skipped="1" name="a">\n</testsuite><testsuite name="b" tests="2" errors="1">'
    assert parse_counts(f"<testsuites>{suites}") == Counts(passed=2, failed=2)
    assert parse_counts(f'<testsuites name="x" tests="9" failures="2" time="1">{suites}') == Counts(passed=7, failed=2)


@pytest.mark.parametrize("text", ["", "OK", "no tests ran in 0.01s", "the parser passed in 3s", "3 passed", "FAILED"])
def test_other_output_gives_no_figures(text: str) -> None:
    """A lone OK or a sentence is not a summary."""
    assert parse_counts(text) is None


@given(st.text(st.sampled_from('0123456789 passedfailed,in.s=\n()<>"#-:'), max_size=2000))
def test_no_output_can_break_or_stall_the_reader(text: str) -> None:
    """Whatever a test suite prints, there is an answer."""
    parse_counts(text)


@pytest.mark.parametrize(
    ("outcome", "ok", "summary"),
    [
        (Outcome(reason="exited", exit_code=0), True, "pass"),
        (Outcome(reason="exited", exit_code=1, stdout=Output(head=b"2 failed, 39 passed in 1s\n")), False, "FAIL 2/41"),
        (Outcome(reason="exited", exit_code=2), False, "FAIL exit 2"),
        (Outcome(reason="exited", exit_code=1, stdout=Output(head=b"9 passed in 1s\n")), False, "FAIL exit 1"),
        (Outcome(reason="timeout", signal=9), False, "timeout"),
        (Outcome(reason="oom", signal=9), False, "out of memory"),
        (Outcome(reason="signalled", signal=11), False, "FAIL signal 11"),
        (Outcome(reason="lost", why="engine gone"), False, "could not run"),
        (Outcome(reason="refused", why="no sh"), False, "could not run"),
    ],
)
def test_the_exit_code_decides_not_the_output(outcome: Outcome, ok: bool, summary: str) -> None:
    """Only exit code 0 passes; figures only say how bad it is."""
    verdict = verdict_of(outcome)
    assert (verdict.ok, verdict.summary) == (ok, summary)


def entry(path: str, kind: str = "file") -> Entry:
    """A change of one path."""
    return Entry(root="/p", path=path, kind=kind)


def test_changed_tests_are_seen_whatever_the_language() -> None:
    """Names of test files and folders; a folder entry alone is no change of a test."""
    for path in ("tests/a.py", "pkg/test_x.py", "conftest.py", "src/a.test.ts", "a_test.go", "x/__tests__/y.js"):
        assert looks_like_test(path), path
    for path in ("src/contest.py", "latest/a.py", "testing.md", "attest_x.py"):
        assert not looks_like_test(path), path
    assert verify.tests_changed(Snapshot(entries=(entry("tests/a.py", "gone"),)))
    assert not verify.tests_changed(Snapshot(entries=(entry("tests", "dir"), entry("src/a.py"))))


def test_protected_paths_are_left_as_they_were() -> None:
    """A protected folder covers what lies in it and nothing that only begins like it."""
    snapshot = Snapshot(entries=(entry("tests/a.py"), entry("tests_more/a.py"), entry("tests", "gone"), entry("a.py")))
    kept = without_protected(snapshot, ("/p/tests",))
    assert [e.path for e in kept.entries] == ["tests_more/a.py", "a.py"]


def verdict(*, ok: bool, failed: int | None = None) -> Verified:
    """A verdict with nothing else in it."""
    return Verified(answer="", ok=ok, summary="", failed=failed)


def test_worse_means_worse() -> None:
    """Passing was lost, more tests fail, fewer pass, or it no longer runs; equal is not worse."""
    assert is_worse(verdict(ok=False), verdict(ok=True))
    assert is_worse(verdict(ok=False, failed=3), verdict(ok=False, failed=2))
    assert not is_worse(verdict(ok=False, failed=2), verdict(ok=False, failed=2))
    assert is_worse(verdict(ok=False), verdict(ok=False, failed=2))
    fewer = Verified(answer="", ok=False, summary="", passed=0, failed=1)
    assert is_worse(fewer, Verified(answer="", ok=False, summary="", passed=39, failed=2)), "a suite that cannot be collected"
    assert not is_worse(verdict(ok=False, failed=2), verdict(ok=False))
    assert not is_worse(verdict(ok=True), verdict(ok=False))
    assert not is_worse(verdict(ok=False), None)
