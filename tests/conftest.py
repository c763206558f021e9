"""What every test may ask for, and the one rule on what may be left out.

A test marked `docker` needs an engine and the agent image; one marked `model` the local model's weights. Without
them such a test is skipped and counted at the end of the report under "not run". `scripts/test` sets
MASSGEN_REQUIRE_DOCKER=1: there a missing engine fails the tests instead, because a green report in which no
container ever ran would say nothing about a sandbox.

A test marked `slow` runs when MASSGEN_SLICE is `all`, or the number (0 to 6) of the seventh that it falls into.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.security.corpus_report"]

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "massgen-agent:latest"
SLICES = 7

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


def left_for_another_day(name: str, chosen: str) -> str:
    """Why a slow test is left out when MASSGEN_SLICE is `chosen`; empty when it runs. Which seventh it is in never changes."""
    seventh = str(crc32(name.encode()) % SLICES)
    if chosen in ("all", seventh):
        return ""
    return f"slow, in slice {seventh} of {SLICES}; MASSGEN_SLICE={seventh} runs it, scripts/test --slow runs all"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here, or fail it where it was promised to run."""
    if item.get_closest_marker("slow") and (why := left_for_another_day(item.nodeid, os.environ.get("MASSGEN_SLICE", ""))):
        pytest.skip(f"{item.nodeid} is {why}")
    if item.get_closest_marker("docker") and (why := engine_missing()):
        if os.environ.get("MASSGEN_REQUIRE_DOCKER") == "1":
            pytest.fail(f"{why}; MASSGEN_REQUIRE_DOCKER=1 does not let this test be left out", pytrace=False)
        pytest.skip(why)
    if item.get_closest_marker("model") and (why := weights_missing()):
        pytest.skip(why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what was left out, by reason, where nobody can overlook it."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        place = report.longrepr
        reasons[place[2].removeprefix("Skipped: ") if isinstance(place, tuple) else str(place)] += 1
    if not reasons:
        return
    terminalreporter.section("not run")
    for why, count in reasons.most_common():
        terminalreporter.line(f"{count} {'test' if count == 1 else 'tests'}: {why}")
