"""The final turn: the winner, alone, in a new container, with all answers and votes before it.

It goes on from its own transcript and its own files and says what the user is told. It may still change
files; but what was voted for is never lost to it: when the turn fails, runs out of time, or leaves the verify
command worse off, the voted snapshot stands and that is said.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import anyio.to_thread

from massgen.agent.view import Decision, Presented, View
from massgen.context.rules import Rules as ContextRules
from massgen.coordination.archive import Answer, Archive
from massgen.coordination.chair import Seat
from massgen.coordination.decided import Decided
from massgen.coordination.handin import take_snapshot
from massgen.coordination.patience import Patience
from massgen.coordination.rooms import NOT_THE_AGENTS, Rooms
from massgen.coordination.state import owner
from massgen.coordination.verify import Verifier
from massgen.events.log import EventLog
from massgen.events.types import LookStarted, Notice, Verified
from massgen.events.types import Presented as PresentedEvent
from sandbox import Sandbox, SandboxError, Snapshot
from sandbox.patch import Patch

READ_ONLY = "Until now nobody could change the user's files, so nothing is done yet: make the changes now."
"""What the winner is told where coordination was read-only."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the run has to show."""

    agent: str
    text: str
    snapshot: Snapshot
    patch: Patch
    verdict: Verified | None = None
    """On this very snapshot; None without a verify command."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a final turn needs of the run."""

    task: str
    seat: Seat
    """The winner."""
    decided: Decided
    voted: Answer
    rooms: Rooms
    archive: Archive
    log: EventLog
    context: ContextRules
    patience: Patience
    verifier: Verifier | None = None


async def present(stage: Stage) -> Result:
    """The final turn in a container without any write mount, then verify. Raises: `NOT_THE_AGENTS`."""
    label = stage.seat.label
    decision: Decision | None
    try:
        async with stage.rooms.open("final", label, own=stage.seat.own) as box:
            await box.apply(stage.voted.snapshot, stage.archive.store)
            decision = await stage.patience.bounded(lambda: look(stage, box, direct=False))
            if decision is None:
                return saved(stage)
            snapshot = await take_snapshot(box, stage.archive.store, stage.context)
    except NOT_THE_AGENTS:
        raise
    except SandboxError as error:
        return await _voted(stage, f"the final turn had no sandbox ({error}); the answer that was voted for stands")
    if not isinstance(decision, Presented):
        return await _voted(stage, f"the final turn ended without a presentation ({why(decision)}); the voted answer stands")
    snapshot = await anyio.to_thread.run_sync(stage.archive.base.changes, snapshot)
    verdict = await verify(stage, snapshot)
    if stage.patience.over:
        return saved(stage)
    if verdict and is_worse(verdict, stage.archive.verdict(stage.voted.id)):
        text = f"the final turn made the verify command worse ({verdict.summary}); the answer that was voted for stands"
        return await _voted(stage, text, said=decision.text)
    patch = await anyio.to_thread.run_sync(stage.archive.keep, snapshot)
    result = Result(agent=label, text=decision.text, snapshot=snapshot, patch=patch, verdict=verdict)
    say(stage.log, result)
    return result


async def look(stage: Stage, box: Sandbox, *, direct: bool) -> Decision:
    """Show the winner everything and let it finish."""
    label = stage.seat.label
    shown = stage.archive.shown(stage.decided.answers, label)
    view = View(
        phase="final",
        task=stage.task,
        answers=shown,
        own=stage.voted.id,
        latest=owner(stage.archive.newest or stage.voted.id),
        votes=stage.decided.votes,
        paths=stage.rooms.places(stage.seat.own, "write" if direct else "draft"),
        base=stage.archive.verdict("base"),
        remark=READ_ONLY if stage.rooms.read_only else "",
    )
    async with stage.seat.open_session(box, stage.decided.transcript) as session:
        stage.log.emit(LookStarted(agent=label, answers=stage.decided.answers, phase="final"))
        return await session.look(view)


async def verify(stage: Stage, snapshot: Snapshot) -> Verified | None:
    """The verdict on what is about to be shown, as event `final`. None: no command, or patience ran out."""
    if stage.verifier is None:
        return None
    verifier, label = stage.verifier, stage.seat.label
    verdict = await stage.patience.bounded(lambda: verifier.check("final", snapshot, agent=label))
    if verdict is None:
        return None
    stage.log.emit(verdict)
    stage.archive.add_verdict(verdict)
    return verdict


def is_worse(now: Verified, voted: Verified | None) -> bool:
    """True when the final turn lost what the voted answer had: passing, some of the passing tests, or running at all."""
    if voted is None or now.ok:
        return False
    if voted.ok:
        return True
    if voted.failed is None:
        return False
    # Fewer failures with fewer passes is a suite that no longer runs, or tests that were taken out.
    return now.failed is None or now.failed > voted.failed or (now.passed or 0) < (voted.passed or 0)


def saved(stage: Stage) -> Result:
    """The voted answer as it is, for a run that was cut short. Nothing is run."""
    result = unsaid(stage)
    say(stage.log, result)
    return result


def unsaid(stage: Stage) -> Result:
    """The same, and it may not stay the result: nothing is said."""
    voted = stage.voted
    verdict = stage.archive.verdict(voted.id)
    return Result(agent=stage.seat.label, text=voted.text, snapshot=voted.snapshot, patch=voted.patch, verdict=verdict)


def recalled(stage: Stage, said: PresentedEvent) -> Result:
    """A result that was presented before the run died. Blocks. Raises SnapshotError when its contents are gone."""
    snapshot = stage.archive.store.get_snapshot(said.snapshot)
    verdict = stage.archive.verdict("final")
    if snapshot.id == stage.voted.snapshot.id:  # it stood in the end: a verdict of the final turn may be on what did not
        verdict = stage.archive.verdict(stage.voted.id) or verdict
    return Result(agent=said.agent, text=said.text, snapshot=snapshot, patch=stage.archive.patch(snapshot), verdict=verdict)


def why(decision: Decision) -> str:
    """Why a decision is not a presentation, for people."""
    return getattr(decision, "why", "") or type(decision).__name__.lower()


async def _voted(stage: Stage, notice: str, *, said: str = "") -> Result:
    stage.log.emit(Notice(text=notice, level="warning", agent=stage.seat.label))
    verdict = await verify(stage, stage.voted.snapshot)
    voted = stage.voted
    result = Result(agent=stage.seat.label, text=said or voted.text, snapshot=voted.snapshot, patch=voted.patch, verdict=verdict)
    say(stage.log, result)
    return result


def say(log: EventLog, result: Result) -> None:
    """The event that says what the user is given."""
    log.emit(
        PresentedEvent(
            agent=result.agent,
            text=result.text,
            snapshot=result.snapshot.id,
            files=len(result.patch.changes),
            added=result.patch.added,
            removed=result.patch.removed,
        )
    )
