"""How many tests passed and failed, read from what test runners print. Pure; the text is untrusted.

pytest, unittest, jest and node:test end with one summary, and the last one in the text counts. `go test` and `cargo test` report
per package: theirs are added up, and as that is wrong of a text with a gap in it, such a text gives none. `go test` without `-v`
or `-json` tells of packages only, so these are counted, and called packages. A JUnit report that the command prints is read, too.

Only figures come from here. Whether the command passed is its exit code's business: output can say anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MAX_LINES = 400
"""Single summaries stand at the end; nothing is searched further up."""
MAX_CHARS = 4 * 1024 * 1024

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_GAP = re.compile(r"^… \d+ bytes cut …$", re.MULTILINE)
_FIGURE = re.compile(r"(\d+) ([a-z]+)")
_PYTEST = re.compile(r"^=*\s*((?:\d+ [a-z]+(?: [a-z]+)?(?:, )?)+) in [0-9.]+s")
_RAN = re.compile(r"^Ran (\d+) tests? in ")
_UNITTEST = re.compile(r"^(OK|FAILED)(?: \((.*)\))?$")
_JEST = re.compile(r"^Tests:\s+((?:\d+ [a-z]+, )*\d+ total)$")
_NODE = re.compile(r"^(?:#|ℹ) (tests|pass|fail|cancelled) (\d+)$")
_CARGO = re.compile(r"^test result: (?:ok|FAILED)\. (\d+) passed; (\d+) failed;")
_GO_TEST = re.compile(r"^--- (PASS|FAIL|SKIP): \S")
_GO_PACKAGE = re.compile(r"^(ok|FAIL) *\t\S+(?:\t| \[)")
_GO_EVENT = re.compile(r'^\{"Time":"[^"]*","Action":"(pass|fail|skip)","Package":"[^"]*"(?:,"Test":"([^"]*)")?')
_SUITE = re.compile(r"<(testsuites?)\s([^<>]{0,2000})>")
_ATTRIBUTE = re.compile(r'\b(tests|failures|errors|skipped|disabled)="(\d+)"')


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Tests of one run. Errors count as failed; skipped and expected failures count as neither."""

    passed: int
    failed: int
    counted: Literal["tests", "packages"] = "tests"


Found = tuple[int, Counts]
"""The line at which a runner spoke last, and what it said."""


def parse_counts(text: str) -> Counts | None:
    """The figures of the runner that spoke last, or None when there is none that we know."""
    whole = _COLOUR.sub("", text[-MAX_CHARS:])
    lines = [line[:300].rstrip() for line in whole.splitlines()]
    found = [_summary(lines)]
    if not _GAP.search(whole) and len(text) <= MAX_CHARS:
        found += [reader(lines) for reader in (_cargo, _go, _go_json)]
        found.append(_junit(whole))
    spoken = [one for one in found if one]
    return max(spoken, key=lambda one: one[0])[1] if spoken else None


# -- runners with one summary -----------------------------------------------------------------------------------


def _summary(lines: Sequence[str]) -> Found | None:
    for number in range(len(lines) - 1, max(len(lines) - MAX_LINES, 0) - 1, -1):
        line = lines[number].strip()
        if found := _PYTEST.match(line):
            return number, _worded(found.group(1), failed=("failed", "error", "errors"))
        if found := _JEST.match(line):
            return number, _worded(found.group(1), failed=("failed",))
        if _NODE.match(line):
            return number, _node(lines[max(number - 8, 0) : number + 1])
        if found := _UNITTEST.match(line):
            ran = next((m for before in reversed(lines[:number]) if (m := _RAN.match(before.strip()))), None)
            if ran:
                return number, _unittest(int(ran.group(1)), found.group(2) or "")
    return None


def _worded(summary: str, *, failed: Sequence[str]) -> Counts:
    figures = {word: int(number) for number, word in _FIGURE.findall(summary)}
    return Counts(passed=figures.get("passed", 0), failed=sum(figures.get(word, 0) for word in failed))


def _unittest(ran: int, detail: str) -> Counts:
    figures = {
        name.strip(): int(number) for name, _, number in (part.partition("=") for part in detail.split(",")) if number.isdigit()
    }
    failed = sum(figures.get(name, 0) for name in ("failures", "errors", "unexpected successes"))
    neither = figures.get("skipped", 0) + figures.get("expected failures", 0)
    return Counts(passed=max(0, ran - failed - neither), failed=failed)


def _node(lines: Sequence[str]) -> Counts:
    figures = {m.group(1): int(m.group(2)) for line in lines if (m := _NODE.match(line.strip()))}
    return Counts(passed=figures.get("pass", 0), failed=figures.get("fail", 0) + figures.get("cancelled", 0))


# -- runners that report in parts -------------------------------------------------------------------------------


def _cargo(lines: Sequence[str]) -> Found | None:
    parts = [(number, found) for number, line in enumerate(lines) if (found := _CARGO.match(line))]
    if not parts:
        return None
    passed, failed = (sum(int(found.group(group)) for _, found in parts) for group in (1, 2))
    return parts[-1][0], Counts(passed=passed, failed=failed)


def _go(lines: Sequence[str]) -> Found | None:
    packages = [(number, found.group(1)) for number, line in enumerate(lines) if (found := _GO_PACKAGE.match(line))]
    if not packages:
        return None
    verbose = any(line.startswith("=== RUN ") for line in lines)
    tests = [found.group(1) for line in lines if (found := _GO_TEST.match(line))]
    words = tests if verbose else [word for _, word in packages]
    return packages[-1][0], Counts(
        passed=words.count("PASS") + words.count("ok"),
        failed=words.count("FAIL"),
        counted="tests" if verbose else "packages",
    )


def _go_json(lines: Sequence[str]) -> Found | None:
    """`go test -json`: an event a line. Only tests themselves count, as with `-v`, not the parts of one."""
    ends = [(number, found) for number, line in enumerate(lines) if (found := _GO_EVENT.match(line))]
    words = [found.group(1) for _, found in ends if found.group(2) and "/" not in found.group(2)]
    if not words:
        return None
    return ends[-1][0], Counts(passed=words.count("pass"), failed=words.count("fail"))


def _junit(text: str) -> Found | None:
    totals: list[dict[str, int]] = []
    suites: list[dict[str, int]] = []
    at = 0
    for tag in _SUITE.finditer(text):
        figures = {name: int(number) for name, number in _ATTRIBUTE.findall(tag.group(2))}
        if "tests" in figures:
            (totals if tag.group(1) == "testsuites" else suites).append(figures)
            at = tag.end()
    counted = totals[-1:] or suites
    if not counted:
        return None
    sums = {name: sum(one.get(name, 0) for one in counted) for name in ("tests", "failures", "errors", "skipped", "disabled")}
    failed = sums["failures"] + sums["errors"]
    passed = max(0, sums["tests"] - failed - sums["skipped"] - sums["disabled"])
    return text.count("\n", 0, at), Counts(passed=passed, failed=failed)
