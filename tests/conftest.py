"""What every test may ask for, and the one rule on what may be left out.

A test marked `docker` needs an engine and the agent image; one marked `model` the local model's weights. Without
them such a test is skipped and counted at the end of the report under "not run". `scripts/test` sets
MASSGEN_REQUIRE_DOCKER=1: there a missing engine fails the tests instead, because a green report in which no
container ever ran would say nothing about a sandbox.

A test marked `slow` runs when MASSGEN_SLICE is `all`, or the number of a day that its turn falls on: every 14th day, or, where
the mark says `slow(of=3, turn=0)`, every third. What was left out is counted by reason, with names where they are few;
MASSGEN_NOT_RUN names a file for all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.security.corpus_report"]

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "massgen-agent:latest"
SLICES = 14
FEW = 6

# No deadline per example: it would measure how busy the machine is.
settings.register_profile("bounded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("bounded"), max_examples=50_000)
settings.load_profile("bounded")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The product runs on asyncio only, so do the tests."""
    return "asyncio"


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the clone."""
    return ROOT


@pytest.fixture(scope="session")
def image() -> str:
    """The agent image that scripts/bootstrap builds."""
    return IMAGE


@cache
def engine_missing() -> str:
    """Why containers cannot run here; empty when they can."""
    # The SDK directly, not the product's engine: a bug there must fail tests, never skip them. In a process of its own,
    # because the SDK leaves a socket open when it cannot connect, and an unclosed socket fails tests here.
    code = f"import docker; docker.from_env(timeout=10).images.get({IMAGE!r})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 0:
        return ""
    why = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"no container engine with the image {IMAGE} (scripts/bootstrap brings both): {why}"


@cache
def weights_missing() -> str:
    """Why the local model cannot run here; empty when it can."""
    from massgen.models.pinned import QWEN_CODER, models_folder, usable

    path = models_folder(os.environ) / QWEN_CODER.file_name
    return "" if usable(path) else "the local model's weights are not there (scripts/bootstrap --model fetches them)"


def left_for_another_day(name: str, chosen: str, *, of: int = SLICES, turn: int | None = None) -> str:
    """Why a slow test is left out when MASSGEN_SLICE is `chosen`; empty when it runs. Its days never change."""
    turn = (crc32(name.encode()) if turn is None else turn) % of
    if chosen == "all" or (chosen and int(chosen) % of == turn):
        return ""
    return f"slow, runs every {of} days: MASSGEN_SLICE={turn} is such a day, scripts/test --slow runs all"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here, or fail it where it was promised to run."""
    if (mark := item.get_closest_marker("slow")) and (
        why := left_for_another_day(item.nodeid, os.environ.get("MASSGEN_SLICE", ""), **mark.kwargs)
    ):
        pytest.skip(why)
    if item.get_closest_marker("docker") and (why := engine_missing()):
        if os.environ.get("MASSGEN_REQUIRE_DOCKER") == "1":
            pytest.fail(f"{why}; MASSGEN_REQUIRE_DOCKER=1 does not let this test be left out", pytrace=False)
        pytest.skip(why)
    if item.get_closest_marker("model") and (why := weights_missing()):
        pytest.skip(why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what was left out, by reason, where nobody can overlook it; by name where they are few, and all in a file."""
    left: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        place = report.longrepr
        why = place[2].removeprefix("Skipped: ") if isinstance(place, tuple) else str(place)
        left.setdefault(why, []).append(report.nodeid)
    if place := os.environ.get("MASSGEN_NOT_RUN"):
        names = [f"{name}: {why}\n" for why, names in sorted(left.items()) for name in names]
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text("".join(names))
    if not left:
        return
    terminalreporter.section("not run")
    for why, names in sorted(left.items(), key=lambda reason: -len(reason[1])):
        terminalreporter.line(f"{len(names)} {'test' if len(names) == 1 else 'tests'}: {why}")
        for name in names if len(names) <= FEW else ():
            terminalreporter.line(f"  {name}")
    if place:
        terminalreporter.line(f"their names: {place}")
