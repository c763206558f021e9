"""How many tests passed and failed, read from what pytest or unittest print. Pure; the text is untrusted.

Only figures come from here. Whether the command passed is its exit code's business: output can say anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LINES = 400
"""Summaries stand at the end; nothing is searched further up."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PYTEST = re.compile(r"^=*\s*((?:\d+ [a-z]+(?: [a-z]+)?(?:, )?)+) in [0-9.]+s")
_FIGURE = re.compile(r"(\d+) ([a-z]+)")
_RAN = re.compile(r"^Ran (\d+) tests? in ")
_UNITTEST = re.compile(r"^(OK|FAILED)(?: \((.*)\))?$")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Tests of one run. Errors count as failed; skipped and expected failures count as neither."""

    passed: int
    failed: int


def parse_counts(text: str) -> Counts | None:
    """The last summary in the text, or None when there is none that we know."""
    lines = [_COLOUR.sub("", line[:300]).strip() for line in text.splitlines()[-MAX_LINES:]]
    for number in range(len(lines) - 1, -1, -1):
        if found := _PYTEST.match(lines[number]):
            return _pytest(found.group(1))
        if found := _UNITTEST.match(lines[number]):
            ran = next((m for line in reversed(lines[:number]) if (m := _RAN.match(line))), None)
            if ran:
                return _unittest(int(ran.group(1)), found.group(2) or "")
    return None


def _pytest(summary: str) -> Counts:
    figures = {word: int(number) for number, word in _FIGURE.findall(summary)}
    failed = sum(figures.get(word, 0) for word in ("failed", "error", "errors"))
    return Counts(passed=figures.get("passed", 0), failed=failed)


def _unittest(ran: int, detail: str) -> Counts:
    figures = {
        name.strip(): int(number) for name, _, number in (part.partition("=") for part in detail.split(",")) if number.isdigit()
    }
    failed = sum(figures.get(name, 0) for name in ("failures", "errors", "unexpected successes"))
    neither = figures.get("skipped", 0) + figures.get("expected failures", 0)
    return Counts(passed=max(0, ran - failed - neither), failed=failed)
