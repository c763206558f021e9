"""A pytest plugin: which numbers of the abuse corpus were attempted, on which engine, and why the others were not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter
from functools import cache

import pytest

from tests.security.corpus import NOT_RUN, PROBES


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line("markers", "probe(id, ...): attempts these numbers of the abuse corpus (tests/security/corpus.py)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-k probe_33` finds the tests of a number, and their reports carry it."""
    for item in items:
        for mark in item.iter_markers("probe"):
            item.extra_keyword_matches.update(f"probe_{number}" for number in mark.args)
            item.user_properties += [("probe", number) for number in mark.args]


@cache
def engine() -> str:
    """The engine that tests use, by name and version."""
    code = "import docker; c = docker.from_env(timeout=10); print(c.version()['Version'])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return f"Docker {done.stdout.strip()}" if done.returncode == 0 else "no engine"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it whenever a probe was selected."""

    def numbers(*outcomes: str) -> Counter[str]:
        reports = [report for outcome in outcomes for report in terminalreporter.stats.get(outcome, [])]
        return Counter(value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "probe")

    held, broken = numbers("passed"), numbers("failed")
    attempted = set(held | broken)
    if not attempted:
        return
    terminalreporter.section("abuse corpus")
    terminalreporter.line(f"{len(attempted)} of {len(PROBES)} probes attempted on {engine()}")
    counts = " ".join(f"{number}×{held[number]}" for number in sorted(held, key=int))
    for line in textwrap.wrap(f"held against, tests by number: {counts}", 120, subsequent_indent="  "):
        terminalreporter.line(line)
    for number in sorted(broken, key=int):
        terminalreporter.line(f"{broken[number]} of {number} FAILED: {PROBES[number]}", red=True)
    skipped = set(numbers("skipped")) - attempted
    elsewhere = sorted(set(PROBES) - attempted - skipped - set(NOT_RUN))
    for number, why in NOT_RUN.items():
        terminalreporter.line(f"not run: {number} ({PROBES[number]}): {why}")
    for number in sorted(skipped):
        terminalreporter.line(f"not run: {number} ({PROBES[number]}): every test of it was skipped, see below")
    if elsewhere:
        terminalreporter.line(f"not run: {', '.join(elsewhere)}: not among the tests that were selected")
