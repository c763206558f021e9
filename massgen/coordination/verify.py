"""The user's verify command, run on one answer in a sandbox that no agent has touched.

A fresh container shows the project as it is, the answer's snapshot is laid over it, and the command runs with
`sh -c`. Protected paths are left as the project has them, so an answer cannot pass by rewriting the tests that
the user protected; changes of other test files are allowed and said (`tests_changed`). The same content is
verified once: a final turn that changed nothing costs nothing.

The deadline is ten minutes or the command deadline, whichever is longer: a test suite is longer than a command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal

import anyio

from massgen.agent.counts import Counts, parse_counts
from massgen.coordination.rooms import NOT_THE_AGENTS
from massgen.events.types import Verified
from sandbox import EngineDied, Outcome, Sandbox, SandboxError, Snapshot, Store

VERIFY_TIMEOUT_S = 600.0
TAIL_CHARS = 4000
COULD_NOT = "could not run"
"""The summary when there was no container for it."""
AT_ONCE = 2
"""Verify containers at a time; they compete with agents for processors."""

TEST_NAMES = ("test_*.py", "*_test.py", "conftest.py", "*.test.*", "*.spec.*", "*_test.go", "*Test.java", "*_spec.rb")
TEST_FOLDERS = ("test", "tests", "testing", "__tests__", "spec")


class Verifier:
    """Verify for one run. `open_box(agent)` opens a fresh container with the project's drafts."""

    def __init__(
        self,
        *,
        command: str,
        cwd: str,
        store: Store,
        protected: tuple[str, ...],
        open_box: Callable[[str], AbstractAsyncContextManager[Sandbox]],
        timeout_s: float = VERIFY_TIMEOUT_S,
    ) -> None:
        self._command = command
        self._cwd = cwd
        self._store = store
        self._protected = protected
        self._open_box = open_box
        self._timeout_s = timeout_s
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        self._done: dict[str, Verified] = {}
        self._running: dict[str, anyio.Lock] = {}

    def remember(self, snapshot: Snapshot, verdict: Verified | None) -> None:
        """A verdict of before the run was resumed: the same content is not verified again."""
        if verdict and verdict.summary != COULD_NOT:
            self._done[without_protected(snapshot, self._protected).id] = verdict

    async def check(self, answer: str, snapshot: Snapshot, *, agent: str = "") -> Verified:
        """The verdict on a snapshot, named `answer` (`agent1.2`, `base`, `final`).

        A container that cannot run is a verdict, too, as coordination waits for one. Raises: `NOT_THE_AGENTS`, which say nothing
        of the answer.
        """
        judged = without_protected(snapshot, self._protected)
        changed = tests_changed(judged)
        async with self._running.setdefault(judged.id, anyio.Lock()):
            if judged.id not in self._done:
                try:
                    async with self._limiter:
                        self._done[judged.id] = await self._run(judged, agent)
                except NOT_THE_AGENTS:
                    raise
                except SandboxError as error:
                    return Verified(answer=answer, ok=False, summary=COULD_NOT, tail=str(error), tests_changed=changed)
        known = self._done[judged.id]
        return Verified(
            answer=answer,
            ok=known.ok,
            summary=known.summary,
            passed=known.passed,
            failed=known.failed,
            counted=known.counted,
            tail=known.tail,
            seconds=known.seconds,
            tests_changed=changed,
        )

    async def _run(self, snapshot: Snapshot, agent: str) -> Verified:
        async with self._open_box(agent) as box:
            if snapshot.entries:
                await box.apply(snapshot, self._store)
            outcome = await box.run(["sh", "-c", self._command], cwd=self._cwd, timeout_s=self._timeout_s)
        if outcome.reason == "engine":
            raise EngineDied(f"the container engine is gone ({outcome.why})", op="verify")
        return verdict_of(outcome)


def verdict_of(outcome: Outcome) -> Verified:
    """What a finished verify command means. The exit code decides; figures are decoration."""
    text = outcome.stdout.text + outcome.stderr.text
    counts = parse_counts(outcome.stdout.text) or parse_counts(outcome.stderr.text)
    return Verified(
        answer="",
        ok=outcome.ok,
        summary=_summary(outcome, counts),
        passed=counts.passed if counts else None,
        failed=counts.failed if counts else None,
        counted=counts.counted if counts else "tests",
        tail=(text + outcome.why)[-TAIL_CHARS:],
        seconds=round(outcome.wall_s, 3),
    )


_LIMITS: Mapping[Literal["timeout", "idle", "oom", "pids", "disk", "output"], str] = {
    "timeout": "timeout",
    "idle": "timeout",
    "oom": "out of memory",
    "pids": "FAIL too many processes",
    "disk": "FAIL disk full",
    "output": "FAIL too much output",
}


def _summary(outcome: Outcome, counts: Counts | None) -> str:
    match outcome.reason:
        case "exited" if outcome.ok:
            return "pass"
        case "exited" if counts and counts.failed:
            noun = "" if counts.counted == "tests" else f" {counts.counted}"
            return f"FAIL {counts.failed}/{counts.failed + counts.passed}{noun}"
        case "exited":
            return f"FAIL exit {outcome.exit_code}"
        case "refused" | "lost" | "engine" | "killed":
            return COULD_NOT
        case "signalled":
            return f"FAIL signal {outcome.signal}"
        case limit:
            return _LIMITS[limit]


def without_protected(snapshot: Snapshot, protected: tuple[str, ...]) -> Snapshot:
    """The snapshot less what it does to protected paths, so that they stay as the project has them."""
    return Snapshot(
        entries=tuple(e for e in snapshot.entries if not is_below(f"{e.root}/{e.path}".rstrip("/"), protected)),
        left_out=snapshot.left_out,
    )


def is_below(path: str, folders: tuple[str, ...]) -> bool:
    """True when the path is one of the folders or lies in one."""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def tests_changed(snapshot: Snapshot) -> bool:
    """True when the snapshot adds, changes or deletes a file that looks like a test."""
    return any(e.kind != "dir" and looks_like_test(e.path) for e in snapshot.entries)


def looks_like_test(path: str) -> bool:
    """By the name conventions of the common runners."""
    pure = PurePosixPath(path)
    in_folder = any(part in TEST_FOLDERS for part in pure.parts[:-1])
    return in_folder or any(fnmatchcase(pure.name, pattern) for pattern in TEST_NAMES)
