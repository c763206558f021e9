"""What a run of the user's tests says, read from the output of pytest and unittest. Pure text; it may say anything.

Whether tests pass is the exit code's business. The figures only compare one try with another and inform the vote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from massgen.agent.counts import Counts, parse_counts
from massgen.events.types import figure

DEFAULT_COMMAND = "python3 -m pytest -q --tb=short -p no:cacheprovider"

SHOWN_HEAD, SHOWN_TAIL, SHOWN_CHARS = 800, 350, 1200
"""Of the output, in a prompt: as measured with the model this is for."""

_NONE = re.compile(r"no tests ran|^Ran 0 tests|No module named '?(?:pytest|unittest)|: (?:command )?not found", re.MULTILINE)
_NO_RUN_CODES = frozenset({5, 126, 127})
"""pytest: nothing collected. A shell: cannot be executed, not found."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_DOTS = re.compile(r"^(?:\S+\.py )?[.FEsxXu]+\s*(?:\[\s*\d+%\])?$")
_RULE = re.compile(r"^[=_\-]{3,}\s*|\s*[=_\-]{3,}$")
_BEGIN = re.compile(r"^(?:=+ (?:FAILURES|ERRORS) =+$|={20,}\n(?:FAIL|ERROR): )", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class TestRun:
    """One run of the test command."""

    __test__ = False

    ok: bool
    """It ended, with code 0."""
    text: str
    exit_code: int | None
    seconds: float

    @property
    def tally(self) -> Counts | None:
        """Figures, when the output has them."""
        return parse_counts(self.text)

    @property
    def nothing(self) -> bool:
        """No test was run."""
        return self.exit_code in _NO_RUN_CODES or (
            self.tally in {None, Counts(passed=0, failed=0)} and bool(_NONE.search(self.text))
        )

    @property
    def verdict(self) -> str:
        """`PASS (5 passed)`, `FAIL (2 failed, 3 passed)`, `FAIL (stopped after 10 s)`."""
        tally = self.tally
        if self.ok:
            return f"PASS ({figure(tally.passed, 'passed', tally.counted)})" if tally else "PASS"
        if tally:
            return f"FAIL ({figure(tally.failed, 'failed', tally.counted)}, {tally.passed} passed)"
        return (
            f"FAIL (stopped after {self.seconds:.0f} s)"
            if self.exit_code in {None, 124}
            else f"FAIL (exit code {self.exit_code})"
        )

    def better_than(self, other: TestRun) -> bool:
        """Progress: fewer tests fail, or (with -x the first failure ends the run) as many fail and more pass."""
        if self.ok or other.ok:
            return self.ok and not other.ok
        mine, theirs = self.tally, other.tally
        if mine is None or theirs is None:
            return mine is not None and theirs is None and mine.passed > 0
        return (mine.failed, -mine.passed) < (theirs.failed, -theirs.passed)


def shortened(text: str) -> str:
    """The output for a prompt: without rules, dots, times and addresses; head and tail when it is long."""
    text = _COLOUR.sub("", text)
    begin = _BEGIN.search(text)
    text = text[begin.start() :] if begin else text
    lines: list[str] = []
    for line in text.splitlines():
        plain = line.rstrip()
        if not _DOTS.match(plain):
            plain = _RULE.sub("", _RULE.sub("", plain)) if plain[:3] in {"===", "___", "---"} else plain
            lines.append(plain)
    text = "\n".join(line for line in lines if line.strip() and line.strip() not in {"FAILURES", "ERRORS"})
    text = re.sub(r"0x[0-9a-f]{6,}", "0x…", re.sub(r" in [\d.]+s\b", "", text))
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_HEAD]}\n…\n{text[-SHOWN_TAIL:]}"


def runner(command: str) -> str:
    """What to call the tests in a prompt."""
    return next((name for name in ("pytest", "unittest") if name in command), "The test command")
