"""One lease, from its grant until nothing of it is left: what is kept of it meanwhile, and what happens when it is cut off.

    grant (in the log) → record on the disk → container → undo and journal into the record → go
    → run.json says what was written → Applied → record gone

Whatever cuts that off, killing this process included, leaves the record, and the record is enough to make the project whole:
finished when everything was in its place, else as it was. Cut off without dying (the container was lost, Ctrl-C), this process
does that itself, before it says that anything ended. `run.json` is written here and not by the callers: between a
finished write and its record there must be nothing that can be cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread

from massgen.coordination import leases
from massgen.coordination import record as records
from massgen.coordination.leases import Held, Purpose
from massgen.coordination.rooms import Rooms
from massgen.coordination.survey import Written
from massgen.coordination.target import Target
from massgen.errors import ConfigError
from massgen.events.types import Applied, Event, LeaseGranted, Notice
from sandbox import Drift, Lease, LeaseError, Recovered, SandboxError, Snapshot, Store, owner
from sandbox.base import Key, absolute

END_S = 120.0
"""For making the project whole again after a write was cut off; beyond it that is left to the next start."""

Emit = Callable[[Event], object]


def state_of(store: Store) -> Path:
    """The state folder that a store lies in."""
    return store.folder.parent


def run_folder(store: Store, run_id: str) -> Path:
    """Where a run's record is."""
    return state_of(store) / "runs" / run_id


def grant(
    purpose: Literal["apply", "undo", "direct", "recover"],
    snapshot_id: str,
    *,
    agent: str,
    target: Target,
    run_id: str,
    emit: Emit,
) -> Lease:
    """A fresh lease, in the log before anything can use it (its token only as a hash)."""
    lease = Lease.grant(
        run_id=run_id, agent=agent, snapshot_id=snapshot_id, purpose=purpose, paths=target.roots, protected=target.existing()
    )
    emit(
        LeaseGranted(
            agent=agent,
            purpose=purpose,
            token_sha256=sha256(lease.token.encode()).hexdigest(),
            snapshot=snapshot_id,
            paths=tuple(map(str, target.roots)),
        )
    )
    return lease


class OneWrite:
    """What is kept of one lease while it is used. Its methods block for the disk, a few ms each."""

    def __init__(
        self, lease: Lease, purpose: Purpose, snapshot: Snapshot, *, rooms: Rooms, store: Store, emit: Emit, before: str = ""
    ) -> None:
        self._rooms, self._store, self._emit = rooms, store, emit
        record = self._record()
        self.held = Held(
            stage=lease.stage,
            owner=owner.me(),
            run_id=rooms.run_id,
            agent=lease.agent,
            purpose=purpose,
            roots=tuple(map(str, lease.paths)),
            protected=tuple(map(str, lease.protected)),
            image=rooms.image,
            runtime=rooms.runtime,
            snapshot=snapshot.id,
            before=before,
            written=record.written if record else None,
            earlier=record.earlier if record else (),
            undone=record.undone if record else None,
        )
        leases.hold(state_of(store), self.held)

    def ready(self, undo: Snapshot, journal: str) -> None:
        """For `Sandbox.commit`."""
        self.held = replace(self.held, undo=undo.id, journal=journal)
        leases.hold(state_of(self._store), self.held)

    def over(self, written: Written | None) -> None:
        """It ended whole, with all or with nothing written: the run's record, the event, and no more lease."""
        if written:
            self.held = replace(self.held, snapshot=written.snapshot.id, undo=written.undo.id)
        record = self._record()
        if record:
            records.save(run_folder(self._store, self.held.run_id), self.held.settled(record, done=written is not None))
        if written:
            self._emit(
                Applied(purpose=self.held.purpose, snapshot=written.snapshot.id, undo=written.undo.id, files=written.files)
            )
        leases.drop(state_of(self._store), self.held)

    async def cut_off(self, *, opened: bool) -> Written | None:
        """Make the project whole now, whatever is being cancelled meanwhile; returns what is written after all."""
        if not opened:
            leases.drop(state_of(self._store), self.held)
            return None
        try:
            with anyio.fail_after(END_S, shield=True):
                _, written = await end_write(self.held, rooms=self._rooms, store=self._store, emit=self._emit)
        except (SandboxError, TimeoutError) as error:
            leases.leave(self.held)
            text = f"the write was cut off, and the next start of massgen has to finish it or take it back: {error}"
            with suppress(OSError):
                self._emit(Notice(text=text, level="warning"))
            return None
        self.over(written)
        return written

    def _record(self) -> records.Record | None:
        with suppress(ConfigError):
            return records.load(run_folder(self._store, self._rooms.run_id))
        return None


async def write(
    purpose: Literal["apply", "undo"],
    snapshot: Snapshot,
    expected: Mapping[Key, str],
    *,
    agent: str,
    target: Target,
    rooms: Rooms,
    store: Store,
    emit: Emit,
) -> Written:
    """Write a snapshot into the project, all or nothing. The caller is the one writer there.

    Raises Drift, LeaseError, other SandboxError: with nothing written, or with a record of what the next start has to end.
    """
    if not snapshot.entries:
        return Written(snapshot=snapshot, undo=snapshot, files=())
    await anyio.to_thread.run_sync(store.put_snapshot, snapshot)
    lease = grant(purpose, snapshot.id, agent=agent, target=target, run_id=rooms.run_id, emit=emit)
    one = OneWrite(lease, purpose, snapshot, rooms=rooms, store=store, emit=emit)
    opened = False
    try:
        async with rooms.open("lease", agent, lease=lease) as box:
            opened = True
            undo = await box.commit(snapshot, store, expected=expected, ready=one.ready)
            written = Written(snapshot=snapshot, undo=undo, files=files_of(snapshot))
            one.over(written)
    except (Drift, LeaseError):
        one.over(None)
        raise
    except BaseException as error:
        if one.held.undo and not leases.is_held(state_of(store), one.held):
            raise  # all was over already; what ended us came after
        written_after_all = await one.cut_off(opened=opened)
        if written_after_all and isinstance(error, SandboxError):
            return written_after_all
        raise
    return written


async def end_write(held: Held, *, rooms: Rooms, store: Store, emit: Emit) -> tuple[Recovered, Written | None]:
    """Finish a write that was cut off, or take it back, by a lease of its own; returns what is written then.

    The caller is the one writer. May be cut off itself, and be done again.
    Raises SandboxError: it could not be ended; SnapshotError: its contents are gone.
    """
    snapshot = await anyio.to_thread.run_sync(store.get_snapshot, held.snapshot)
    undo = await anyio.to_thread.run_sync(store.get_snapshot, held.undo) if held.undo else None
    target = Target(roots=tuple(map(Path, held.roots)), protected=tuple(map(Path, held.protected)))
    lease = grant("recover", held.snapshot, agent=held.agent, target=target, run_id=held.run_id, emit=emit)
    async with rooms.open("lease", held.agent, lease=lease) as box:
        found = await box.recover(store, stage=held.stage, journal=held.journal, snapshot=snapshot, undo=undo)
    # Without an undo it never got its go, whatever the project looks like.
    done = found.written and undo is not None
    return found, Written(snapshot=snapshot, undo=undo, files=files_of(snapshot)) if done and undo else None


def files_of(snapshot: Snapshot) -> tuple[str, ...]:
    """Absolute paths that a snapshot writes, changes or removes."""
    return tuple(absolute(e.root, e.path) for e in snapshot.entries if e.kind != "dir")
