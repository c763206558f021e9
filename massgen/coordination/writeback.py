"""The one way into the project: a lease, a container that holds it, one transaction, and the way back.

`apply` and `undo` are the same act with other snapshots. The host never writes in a project: it grants, says so
in the log, opens a container in which nothing but the guest runs, and hands over the snapshot with what every
touched path must hold at that moment. A path that holds anything else stops all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import anyio.to_thread

from massgen.coordination.merge import meet
from massgen.coordination.onewrite import write
from massgen.coordination.recovery import left_by, writing
from massgen.coordination.risks import Risk, classify, needing_consent
from massgen.coordination.rooms import Rooms
from massgen.coordination.survey import Written
from massgen.coordination.target import Target
from massgen.coordination.verify import without_protected
from massgen.errors import ApplyConflict, ConsentNeeded
from massgen.events.log import EventLog
from massgen.events.types import Conflicted, Merged, Notice
from sandbox import Drift, LeaseError, Snapshot, Store
from sandbox.base import Base, Key, absolute

SHOWN_PATHS = 10


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
    still: Callable[[], object] = lambda: None,
) -> Written:
    """Write the project part of a snapshot, with the user's own edits of meanwhile where both can be kept.

    `allowed`: classes of `risks.py` that the user has consented to. `still` is called when nobody else writes there any more, and
    raises what stands against this write by now.

    Raises, with nothing written: what `still` does; ConsentNeeded; ApplyConflict when the project is not what the agents saw or
    a file may not be written; SandboxError when no container could be had.
    """
    wanted = base.project(snapshot)
    open_to_us = without_protected(wanted, target.protected_names)
    if len(open_to_us.entries) < len(wanted.entries):
        log.emit(Notice(text="changes to protected paths were left out of the write", level="warning"))
    risks = await anyio.to_thread.run_sync(risks_of, open_to_us, base, store)
    for risk in risks:
        log.emit(Notice(text=f"{risk.kind}: {_some(risk.paths)}, of those that {risk.why}", level="warning"))
    if held := needing_consent(risks, allowed):
        raise ConsentNeeded(_ask_for(held))
    async with writing(target.roots, rooms=rooms, store=store, emit=log.emit):
        await anyio.to_thread.run_sync(still)
        met = await meet(open_to_us, base=base, rooms=rooms, store=store, agent=agent)
        if met.conflicts:
            raise conflict(met.conflicts, log)
        if met.merged:
            log.emit(Merged(paths=met.merged))
        if linked := await anyio.to_thread.run_sync(_linked, met.snapshot):
            log.emit(Notice(text=f"{_some(linked)}: its other names (hard links) keep the old content", level="warning"))
        return await _write("apply", met.snapshot, met.expected, agent=agent, target=target, rooms=rooms, store=store, log=log)


def risks_of(snapshot: Snapshot, base: Base, store: Store) -> tuple[Risk, ...]:
    """What of a snapshot runs by itself. Blocks."""
    return classify(snapshot, original=base.original, content=store.get, files=base.count)


def _linked(snapshot: Snapshot) -> tuple[str, ...]:
    """Files with more than one name, which a write parts: as git and most editors do, and a copy made of links is one to keep."""
    found = [Path(absolute(e.root, e.path)) for e in snapshot.entries if e.kind == "file" and e.path]
    return tuple(str(p) for p in found if p.is_file() and not p.is_symlink() and p.lstat().st_nlink > 1)


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
    still: Callable[[], object] = lambda: None,
) -> Written:
    """Take a write back: every path it touched must still hold what it wrote. Raises: as `apply_snapshot`.

    With the two snapshots in each other's place, and purpose `apply`, it takes an undo back.
    """
    expected = left_by(written, undo)
    async with writing(target.roots, rooms=rooms, store=store, emit=log.emit):
        await anyio.to_thread.run_sync(still)
        return await _write(purpose, undo, expected, agent=agent, target=target, rooms=rooms, store=store, log=log)


def conflict(paths: tuple[str, ...], log: EventLog, *, purpose: Literal["apply", "undo"] = "apply") -> ApplyConflict:
    """Say what stands against a write, and the error to raise."""
    log.emit(Conflicted(paths=paths))
    since = "the agents saw the project" if purpose == "apply" else "the run wrote there"
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
    try:
        return await write(purpose, snapshot, expected, agent=agent, target=target, rooms=rooms, store=store, emit=log.emit)
    except Drift as error:
        raise conflict(error.paths, log, purpose=purpose) from error
    except LeaseError as error:
        log.emit(Conflicted(paths=()))
        raise ApplyConflict(f"nothing was written: {error}") from error
