"""The one way into the project: a lease, a container that holds it, one transaction, and the way back.

`apply` and `undo` are the same act with other snapshots. The host never writes in a project: it grants, says so
in the log, opens a container in which nothing but the guest runs, and hands over the snapshot with what every
touched path must hold at that moment. A path that holds anything else stops all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import anyio.to_thread

from massgen.coordination.lock import one_writer
from massgen.coordination.merge import meet
from massgen.coordination.risks import Risk, classify, needing_consent
from massgen.coordination.rooms import Rooms
from massgen.coordination.verify import without_protected
from massgen.errors import ApplyConflict, ConsentNeeded
from massgen.events.log import EventLog
from massgen.events.types import Applied, Conflicted, LeaseGranted, Merged, Notice
from sandbox import Drift, Lease, LeaseError, Snapshot, Store
from sandbox.base import Base, Key, absolute, after

SHOWN_PATHS = 10
LOCKS = "locks"
"""Beside the store, in the state folder."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a run may write."""

    roots: tuple[Path, ...]
    protected: tuple[Path, ...] = ()
    """Never changed, whether they exist or not."""

    @property
    def protected_names(self) -> tuple[str, ...]:
        """As strings, for comparing with snapshot paths."""
        return tuple(map(str, self.protected))

    def existing(self) -> tuple[Path, ...]:
        """The protected paths that can be mounted read-only."""
        return tuple(path for path in self.protected if path.exists())


@dataclass(frozen=True, kw_only=True)
class Written:
    """One finished write."""

    snapshot: Snapshot
    """What the project holds now, where it was touched."""
    undo: Snapshot
    files: tuple[str, ...]


async def apply_snapshot(
    snapshot: Snapshot,
    *,
    agent: str,
    target: Target,
    base: Base,
    rooms: Rooms,
    store: Store,
    log: EventLog,
    allowed: frozenset[str] = frozenset(),
) -> Written:
    """Write the project part of a snapshot, with the user's own edits of meanwhile where both can be kept.

    `allowed`: classes of `risks.py` that the user has consented to.

    Raises, with nothing written: ConsentNeeded; ApplyConflict when the project is not what the agents saw or a file may not be
    written; SandboxError when no container could be had.
    """
    wanted = base.project(snapshot)
    open_to_us = without_protected(wanted, target.protected_names)
    if len(open_to_us.entries) < len(wanted.entries):
        log.emit(Notice(text="changes to protected paths were left out of the write", level="warning"))
    risks = await anyio.to_thread.run_sync(risks_of, open_to_us, base, store)
    for risk in risks:
        log.emit(Notice(text=f"{risk.kind}: {_some(risk.paths)} {risk.why}", level="warning"))
    if held := needing_consent(risks, allowed):
        raise ConsentNeeded(_ask_for(held))
    async with one_writer(store.folder.parent / LOCKS, target.roots):
        met = await meet(open_to_us, base=base, rooms=rooms, store=store, agent=agent)
        if met.conflicts:
            raise conflict(met.conflicts, log)
        if met.merged:
            log.emit(Merged(paths=met.merged))
        return await _write("apply", met.snapshot, met.expected, agent=agent, target=target, rooms=rooms, store=store, log=log)


def risks_of(snapshot: Snapshot, base: Base, store: Store) -> tuple[Risk, ...]:
    """What of a snapshot runs by itself. Blocks."""
    return classify(snapshot, original=base.original, content=store.get, files=base.count)


def _ask_for(held: tuple[Risk, ...]) -> str:
    named = "; ".join(f"{risk.kind} ({_some(risk.paths)})" for risk in held)
    flags = " ".join(f"--allow {risk.kind}" for risk in held)
    return (
        f"nothing was written, as the result changes what runs by itself: {named}; "
        f"look with `massgen diff`, then `massgen apply {flags}`"
    )


def _some(paths: tuple[str, ...]) -> str:
    return ", ".join(paths[:SHOWN_PATHS]) + (f" and {len(paths) - SHOWN_PATHS} more" if len(paths) > SHOWN_PATHS else "")


async def undo_snapshot(
    written: Snapshot,
    undo: Snapshot,
    *,
    agent: str,
    target: Target,
    rooms: Rooms,
    store: Store,
    log: EventLog,
    purpose: Literal["apply", "undo"] = "undo",
) -> Written:
    """Take a write back: every path it touched must still hold what it wrote. Raises: as `apply_snapshot`.

    With the two snapshots in each other's place, and purpose `apply`, it takes an undo back.
    """
    touched = after(written)
    expected = {(e.root, e.path): touched.get((e.root, e.path), "") for e in undo.entries}
    async with one_writer(store.folder.parent / LOCKS, target.roots):
        return await _write(purpose, undo, expected, agent=agent, target=target, rooms=rooms, store=store, log=log)


def grant(
    purpose: Literal["apply", "undo", "direct"], snapshot_id: str, *, agent: str, target: Target, run_id: str, log: EventLog
) -> Lease:
    """A fresh lease, in the log before anything can use it (its token only as a hash)."""
    lease = Lease.grant(
        run_id=run_id, agent=agent, snapshot_id=snapshot_id, purpose=purpose, paths=target.roots, protected=target.existing()
    )
    log.emit(
        LeaseGranted(
            agent=agent,
            purpose=purpose,
            token_sha256=sha256(lease.token.encode()).hexdigest(),
            snapshot=snapshot_id,
            paths=tuple(map(str, target.roots)),
        )
    )
    return lease


def conflict(paths: tuple[str, ...], log: EventLog, *, purpose: Literal["apply", "undo"] = "apply") -> ApplyConflict:
    """Say what stands against a write, and the error to raise."""
    log.emit(Conflicted(paths=paths))
    since = "the agents saw the project" if purpose == "apply" else "the run wrote them"
    return ApplyConflict(
        f"nothing was written: {_some(paths)} changed since {since}; "
        f"look with `massgen diff`, put your own edits aside, and try `massgen {purpose}` again"
    )


async def _write(
    purpose: Literal["apply", "undo"],
    snapshot: Snapshot,
    expected: Mapping[Key, str],
    *,
    agent: str,
    target: Target,
    rooms: Rooms,
    store: Store,
    log: EventLog,
) -> Written:
    files = tuple(absolute(e.root, e.path) for e in snapshot.entries if e.kind != "dir")
    if not snapshot.entries:
        return Written(snapshot=snapshot, undo=snapshot, files=())
    await anyio.to_thread.run_sync(store.put_snapshot, snapshot)
    lease = grant(purpose, snapshot.id, agent=agent, target=target, run_id=rooms.run_id, log=log)
    try:
        async with rooms.open("lease", agent, lease=lease) as box:
            undo = await box.commit(snapshot, store, expected=expected)
            log.emit(Applied(purpose=purpose, snapshot=snapshot.id, undo=undo.id, files=files))
    except Drift as error:
        raise conflict(error.paths, log, purpose=purpose) from error
    except LeaseError as error:
        log.emit(Conflicted(paths=()))
        raise ApplyConflict(f"nothing was written: {error}") from error
    return Written(snapshot=snapshot, undo=undo, files=files)
