"""Write mode `direct`: the winner's final turn itself runs in the one container with write mounts.

There is no snapshot to check before the write, so everything is stored first: the write paths, whole, up to a
size. Afterwards the host lists them again (the container is gone by then), and the difference is both the
record of what happened and the undo, however the turn ended. The mode is refused where that cannot be kept:
trees beyond 512 MiB, and projects owned by root (agents never run as root).

When the final turn fails, runs out of time, or makes the verify command worse, the write is taken back by an
undo lease, and what was voted for goes the ordinary way.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from massgen.agent.view import Decision, Failed, Presented
from massgen.coordination.final import Result, Stage, is_worse, look, say, verify, why
from massgen.coordination.leases import leave
from massgen.coordination.onewrite import OneWrite, end_write, grant, write
from massgen.coordination.recovery import left_by, writing
from massgen.coordination.survey import Survey, Written, account, survey, whole
from massgen.coordination.target import Target
from massgen.coordination.verify import is_below
from massgen.coordination.writeback import conflict, undo_snapshot
from massgen.errors import ConfigError, VerifyFailed
from massgen.events.types import Notice
from sandbox import WORKSPACE, Drift, Lease, SandboxError, Snapshot
from sandbox.base import Base, Original
from sandbox.drafts import tree
from sandbox.snapshot import is_git_name
from sandbox.spec import MIB

MAX_BYTES = 512 * MIB


@dataclass(frozen=True, kw_only=True)
class Direct:
    """How it went."""

    result: Result | None
    """None: it failed and was taken back; the voted answer is to be applied."""
    written: Written | None


def check(roots: Iterable[Path]) -> None:
    """Refuse what `direct` cannot protect. Call it before the run costs anything. Blocks. Raises ConfigError."""
    total = 0
    for root in roots:
        if root.lstat().st_uid == 0:
            raise ConfigError(
                f"write mode direct is refused: {root} belongs to root, and agents never run as root; use write mode apply"
            )
        total += sum(found.size for found in tree(root))
    if total > MAX_BYTES:
        raise ConfigError(
            f"write mode direct is refused: the write paths hold {total // MIB} MiB, and at most {MAX_BYTES // MIB} MiB are "
            "stored for undo; use write mode apply"
        )


async def present_direct(stage: Stage, *, target: Target, base: Base) -> Direct:
    """The final turn in the leased container.

    Raises: ApplyConflict, ConfigError, with nothing written; VerifyFailed when the agent changed what must not change.
    """
    git_before = await anyio.to_thread.run_sync(git_folders, target.roots)
    turn = _Turn(stage, target, base)
    async with writing(target.roots, rooms=stage.rooms, store=stage.archive.store, emit=stage.log.emit):
        await anyio.to_thread.run_sync(check, target.roots)
        decision, written = await turn.take()
    forbidden = sorted(
        [name for name in written.files if is_below(name, target.protected_names)]
        + [str(path) for path in await anyio.to_thread.run_sync(git_folders, target.roots) - git_before]
    )
    if forbidden:
        raise VerifyFailed(f"the final turn made or changed {forbidden[0]}, which is protected; look at it, then `massgen undo`")
    return await _judged(stage, decision, written, target)


class _Turn:
    """The final turn with its lease."""

    def __init__(self, stage: Stage, target: Target, base: Base) -> None:
        self._stage, self._target, self._base = stage, target, base
        self._whole = False
        """The voted answer is in the project, all of it."""
        self._refused = False
        """Nothing was ever written: what differs from before is the user's."""

    async def take(self) -> tuple[Decision | None, Written]:
        """The agent's decision, and what is written, on record whatever happens. The caller is the one writer.

        Cancelled, or ended by an error of ours: all of it is taken back first.
        """
        stage, target = self._stage, self._target
        store, log, label = stage.archive.store, stage.log, stage.seat.label
        before = await anyio.to_thread.run_sync(survey, target.roots, store)
        kept = await anyio.to_thread.run_sync(store.put_snapshot, whole(before))
        voted = self._base.project(stage.voted.snapshot)
        if drifted := await anyio.to_thread.run_sync(self._base.drifted, voted):
            raise conflict(drifted, log)
        await anyio.to_thread.run_sync(store.put_snapshot, voted)
        lease = grant("direct", "", agent=label, target=target, run_id=stage.rooms.run_id, emit=log.emit)
        one = OneWrite(lease, "direct", voted, rooms=stage.rooms, store=store, emit=log.emit, before=kept)
        decision: Decision | None = None
        ended = False
        try:
            try:
                decision = await self._work(lease, one, voted)
            except SandboxError as error:
                decision = Failed(why=str(error))
            ended = True
        finally:
            # Whatever ended it: what was written is on record, with its undo, before anything else happens.
            with anyio.CancelScope(shield=True):
                written = await self._account(one, before)
                if not ended and written.snapshot.entries:
                    await self._take_back(written)
        absent = Original(kind="absent")
        self._base.remember({(e.root, e.path): before.get((e.root, e.path), absent) for e in written.snapshot.entries})
        return decision, written

    async def _work(self, lease: Lease, one: OneWrite, voted: Snapshot) -> Decision | None:
        stage = self._stage
        store = stage.archive.store
        expected = await anyio.to_thread.run_sync(self._base.expected, voted)
        try:
            async with stage.rooms.open("final", stage.seat.label, own=stage.seat.own, lease=lease) as box:
                await box.commit(voted, store, expected=expected, ready=one.ready)
                self._whole = True
                await box.apply(Snapshot(entries=stage.voted.snapshot.under(WORKSPACE)), store)
                return await stage.patience.bounded(lambda: look(stage, box, direct=True))
        except Drift as error:
            self._refused = True
            raise conflict(error.paths, stage.log) from error

    async def _account(self, one: OneWrite, before: Survey) -> Written:
        rooms, store = self._stage.rooms, self._stage.archive.store
        try:
            if one.held.journal and not self._whole and not self._refused:
                # Its container was lost in the middle of placing the voted answer.
                await end_write(one.held, rooms=rooms, store=store, emit=self._stage.log.emit)
            roots = () if self._refused else self._target.roots
            written = await anyio.to_thread.run_sync(account, {} if self._refused else before, roots, store)
            one.over(written if written.snapshot.entries else None)
        finally:
            leave(one.held)
        return written

    async def _take_back(self, written: Written) -> None:
        stage = self._stage
        await write(
            "undo",
            written.undo,
            left_by(written.snapshot, written.undo),
            agent=stage.seat.label,
            target=self._target,
            rooms=stage.rooms,
            store=stage.archive.store,
            emit=stage.log.emit,
        )


async def _judged(stage: Stage, decision: Decision | None, written: Written, target: Target) -> Direct:
    verdict = await verify(stage, written.snapshot) if isinstance(decision, Presented) else None
    if stage.patience.over:
        trouble = "the run ended during the final turn"
    elif not isinstance(decision, Presented):
        trouble = f"the final turn ended without a presentation ({why(decision) if decision else 'stopped'})"
    elif verdict and is_worse(verdict, stage.archive.verdict(stage.voted.id)):
        trouble = f"the final turn made the verify command worse ({verdict.summary})"
    else:
        patch = await anyio.to_thread.run_sync(stage.archive.keep, written.snapshot)
        result = Result(agent=stage.seat.label, text=decision.text, snapshot=written.snapshot, patch=patch, verdict=verdict)
        say(stage.log, result)
        return Direct(result=result, written=written)
    stage.log.emit(Notice(text=f"{trouble}; what it wrote is taken back, the voted answer stands", level="warning"))
    await undo_snapshot(
        written.snapshot,
        written.undo,
        agent=stage.seat.label,
        target=target,
        rooms=stage.rooms,
        store=stage.archive.store,
        log=stage.log,
    )
    return Direct(result=None, written=None)


def git_folders(roots: Iterable[Path]) -> set[Path]:
    """Everything below the roots that git could take for a repository's own. Blocks."""
    found: set[Path] = set()
    for root in roots:
        for folder, folders, files in os.walk(root):
            found.update(Path(folder) / name for name in (*folders, *files) if is_git_name(name))
            folders[:] = [name for name in folders if not is_git_name(name)]
    return found
