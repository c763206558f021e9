"""From the decision to the end of the run: final turn, verdict, and the write that the mode allows.

The rule on a failing verify command: a result that fails is not written, and the run ends with exit code 1,
unless the command failed on the untouched project too and the result is no worse than that. Then it is written
as asked, the failure is said, and the exit code is 1 all the same: nobody may take such a run for a success.

A run that is gone on with (`past`) does here only what its log lacks: a result that was presented is not asked for again, a write
that was done is only recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import anyio.to_thread

from massgen.context.rules import Rules as ContextRules
from massgen.coordination.archive import Archive
from massgen.coordination.chair import Seat
from massgen.coordination.decided import Decided
from massgen.coordination.direct import present_direct
from massgen.coordination.final import Result, Stage, is_worse, present, recalled, saved, unsaid
from massgen.coordination.patience import Over, Patience
from massgen.coordination.record import Record
from massgen.coordination.relive import NOTHING, Cut, Past
from massgen.coordination.rooms import Rooms
from massgen.coordination.state import Finish
from massgen.coordination.target import Target
from massgen.coordination.verify import Verifier
from massgen.coordination.writeback import apply_snapshot, undo_snapshot
from massgen.errors import (
    ApplyConflict,
    BudgetReached,
    ConsentNeeded,
    Interrupted,
    MassgenError,
    NoAnswer,
    RunTimeout,
    VerifyFailed,
)
from massgen.events.log import EventLog
from massgen.events.types import Applied, BudgetOut, Notice, TimeUp, UserStop, Verified
from sandbox import SandboxError, Snapshot

WriteMode = Literal["apply", "review", "direct", "never"]
Change = Callable[[Record], Record]


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """How a run ended."""

    outcome: str
    exit_code: int
    message: str = ""
    winner: str = ""
    """Label."""
    result: Result | None = None


async def conclude(
    decided: Decided,
    *,
    task: str,
    seats: Mapping[str, Seat],
    rooms: Rooms,
    archive: Archive,
    log: EventLog,
    context: ContextRules,
    patience: Patience,
    verifier: Verifier | None,
    target: Target,
    write_mode: WriteMode,
    save: Callable[[Change], None],
    allowed: frozenset[str] = frozenset(),
    past: Past = NOTHING,
) -> Conclusion:
    """Everything after the vote. `save` changes the run's record; it blocks for the disk. `allowed`: see `writeback.py`."""
    if isinstance(decided.end, Finish):
        return _without_answer(decided)
    voted = archive.get(decided.end.answer)
    stage = Stage(
        task=task,
        seat=seats[decided.end.agent],
        decided=decided,
        voted=voted,
        rooms=rooms,
        archive=archive,
        log=log,
        context=context,
        patience=patience,
        verifier=verifier,
    )
    writer = _Writer(stage=stage, target=target, write_mode=write_mode, save=save, allowed=allowed)
    await writer.keep(voted.snapshot)
    if decided.cut:
        return writer.cut_short(unsaid(stage) if past.presented else saved(stage))
    try:
        return await writer.finish(past)
    except (MassgenError, SandboxError) as error:
        known = isinstance(error, MassgenError)
        writer.fall_back(say=known)
        words: dict[type[Exception], str] = {ApplyConflict: "conflict", ConsentNeeded: "ready"}
        outcome = words.get(type(error), "failed" if known else "sandbox")
        return writer.ended(outcome, error.exit_code if isinstance(error, MassgenError) else 125, message=str(error))


_CUT: Mapping[Over, tuple[str, int, str]] = {
    "stop": ("stopped", Interrupted.exit_code, "interrupted"),
    "time": ("timeout", RunTimeout.exit_code, "time is up"),
    "budget": ("budget", BudgetReached.exit_code, "the budget is used up"),
}
"""Outcome, exit code and sentence of a run that patience ran out on."""

_OVER: Mapping[type[Cut], Over] = {TimeUp: "time", BudgetOut: "budget", UserStop: "stop"}


class _Writer:
    """The last part of one run."""

    def __init__(
        self, *, stage: Stage, target: Target, write_mode: WriteMode, save: Callable[[Change], None], allowed: frozenset[str]
    ) -> None:
        self._allowed = allowed
        self._stage = stage
        self._target = target
        self._write_mode = write_mode
        self._save = save
        self._result: Result | None = None

    async def finish(self, past: Past) -> Conclusion:
        stage, base = self._stage, self._stage.archive.base
        result, written = await self._present(past)
        self._result = result
        await self.keep(result.snapshot)
        if written:
            _, remark = await self._judge(result.verdict)
            return self.ended("applied", _verdict_code(result.verdict), message=remark)
        if stage.patience.over:
            return self.cut_short(result)
        refused, remark = await self._judge(result.verdict)
        if refused:
            return self.ended("failed", VerifyFailed.exit_code, message=remark)
        code = _verdict_code(result.verdict)
        if not base.project(result.snapshot).entries:
            return self.ended("answered", code, message=remark)
        if self._write_mode in ("review", "never"):
            return self.ended("ready", code, message=remark)
        await apply_snapshot(
            result.snapshot,
            agent=result.agent,
            target=self._target,
            base=base,
            rooms=stage.rooms,
            store=stage.archive.store,
            log=stage.log,
            allowed=self._allowed,
        )
        return self.ended("applied", code, message=remark)

    async def _present(self, past: Past) -> tuple[Result, bool]:
        """The result, and whether it is written already. Raises: MassgenError, SandboxError."""
        stage = self._stage
        if past.presented:
            return await anyio.to_thread.run_sync(recalled, stage, past.presented), past.applied is not None
        if past.applied:
            await self._take_back(past.applied)
            return saved(stage), False
        if self._write_mode != "direct" or not self._target.roots:
            return await present(stage), False
        direct = await present_direct(stage, target=self._target, base=stage.archive.base)
        return direct.result or saved(stage), direct.written is not None

    async def _take_back(self, write: Applied) -> None:
        """What a direct final turn wrote whose end nobody saw. Raises: as `undo_snapshot`."""
        stage, store = self._stage, self._stage.archive.store
        text = "the run died in its final turn; what that wrote is taken back, the voted answer stands"
        stage.log.emit(Notice(text=text, level="warning"))
        await undo_snapshot(
            store.get_snapshot(write.snapshot),
            store.get_snapshot(write.undo),
            agent=stage.seat.label,
            target=self._target,
            rooms=stage.rooms,
            store=store,
            log=stage.log,
        )

    def fall_back(self, *, say: bool) -> None:
        """Something stood against the write: the user still gets the voted answer.

        Not said when it was the machine that failed: resumed, the run may yet do better.
        """
        if self._result is None:
            self._result = saved(self._stage) if say else unsaid(self._stage)

    def cut_short(self, result: Result) -> Conclusion:
        """Patience ran out: the best answer is kept, nothing is written."""
        self._result = result
        cut = self._stage.decided.cut
        outcome, code, why = _CUT[_OVER[type(cut)] if cut else self._stage.patience.over or "time"]
        run = self._stage.rooms.run_id
        then = f": massgen diff {run}, massgen apply {run}" if result.patch.changes else ""
        return self.ended(outcome, code, message=f"{why}; the best answer so far is kept{then}")

    def ended(self, outcome: str, exit_code: int, *, message: str = "") -> Conclusion:
        """The conclusion, with what there is."""
        return Conclusion(
            outcome=outcome, exit_code=exit_code, message=message, winner=self._stage.seat.label, result=self._result
        )

    async def keep(self, snapshot: Snapshot) -> None:
        """Put the result in the record, so that a later `diff` or `apply` finds it however this run ends."""
        stage = self._stage
        rows = tuple(stage.archive.base.originals_json())

        def change(record: Record) -> Record:
            return replace(record, winner=stage.seat.label, answer=stage.voted.id, snapshot=snapshot.id, originals=rows)

        await anyio.to_thread.run_sync(self._save, change)

    async def _judge(self, verdict: Verified | None) -> tuple[bool, str]:
        """Whether the result must not be written, and what is to be said of its verdict."""
        if verdict is None or verdict.ok:
            return False, ""
        stage = self._stage
        before = stage.archive.verdict("base")
        if before is None and stage.verifier:
            before = await stage.verifier.check("base", Snapshot(entries=()))
            stage.log.emit(before)
        if before is None or is_worse(verdict, before):
            return True, f"the verify command fails on the result ({verdict.summary}); nothing was written; see `massgen diff`"
        text = f"the verify command fails ({verdict.summary}), as it did on the untouched project ({before.summary})"
        stage.log.emit(Notice(text=text, level="warning"))
        return False, text


def _verdict_code(verdict: Verified | None) -> int:
    """A result that fails is a negative verdict, also where the project failed before."""
    return 0 if verdict is None or verdict.ok else VerifyFailed.exit_code


def _without_answer(decided: Decided) -> Conclusion:
    if decided.cut is None:
        why = "; ".join(decided.reasons) or "see the log"
        return Conclusion(outcome="no answer", exit_code=NoAnswer.exit_code, message=f"no agent produced an answer: {why}")
    outcome, code, why = _CUT[_OVER[type(decided.cut)]]
    return Conclusion(outcome=outcome, exit_code=code, message=f"{why} before any agent had answered")


def word_for(error: MassgenError) -> str:
    """The outcome of a run that such an error ended."""
    return {2: "config", 3: "no answer", 5: "conflict", 124: "timeout", 125: "sandbox", 130: "stopped"}.get(
        error.exit_code, "failed"
    )
