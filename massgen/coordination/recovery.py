"""Writes whose process was killed: each is finished or taken back before anybody works on, or writes in, that project again.

    records of dead owners → their containers gone → the project's lock → finished, or taken back → run.json, events, one sentence

Called at every start that may touch a project, and once more under the lock just before a write. A write in another project
that cannot be ended now is said and left; one in a project that the caller is about to use is an error: nobody may build on
half a write. A final turn in mode `direct` that was killed is taken back as a whole, as one that failed is; `undo --redo` gives
it back, and with it whatever was edited in the write paths between the kill and the next start.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import anyio.to_thread

from massgen.coordination import leases
from massgen.coordination import record as records
from massgen.coordination.leases import Held
from massgen.coordination.lock import LOCKS, WAIT_S, one_writer
from massgen.coordination.onewrite import Emit, end_write, run_folder, state_of, write
from massgen.coordination.rooms import Rooms
from massgen.coordination.survey import account, surveyed
from massgen.coordination.target import Target
from massgen.errors import ApplyConflict, MassgenError, SandboxFailed
from massgen.events.log import EventLog
from massgen.events.types import Applied, Event, Notice, RunFinished
from sandbox import Engine, ImageMissing, SandboxError, Snapshot, SnapshotError, Store, scratch
from sandbox.base import Key, after

SHOWN_PATHS = 10


async def recover(state_dir: Path, *, engine: Engine, roots: Iterable[Path] = (), image: str = "") -> tuple[str, ...]:
    """End every write that was killed; returns a sentence on each, for the user.

    `roots`: paths that the caller is about to use. `image`: what to use when a run's own is gone.
    Raises SandboxFailed, ApplyConflict: a write that touches `roots` could not be ended; the sentences are in its message.
    """
    mine = tuple(roots)
    await anyio.to_thread.run_sync(scratch.bury, state_dir / leases.LEASES, *Store.staging(state_dir / "store"))
    found, damaged = await anyio.to_thread.run_sync(leases.held_leases, state_dir)
    said = [await anyio.to_thread.run_sync(_damaged, state_dir, stage) for stage in damaged]
    dead = [held for held in found if held.dead]
    if dead:
        try:
            await engine.reap()  # what the dead one started may be writing still
        except SandboxError as error:
            if any(held.touches(mine) for held in dead):
                raise SandboxFailed(str(error)) from error
            return (*said, f"writes that were killed wait for an engine: {error}")
    for held in dead:
        urgent = held.touches(mine)
        try:
            said += await _recover(held, state_dir, engine, image, wait_s=WAIT_S if urgent else 0.0)
        except (SandboxError, MassgenError) as error:
            why = f"run {held.run_id} was killed while it wrote in {_places(held)}, and that could not be ended: {error}"
            if urgent:
                raise SandboxFailed("\n".join([*said, f"{why}; mend that and try again"])) from error
            if not isinstance(error, ApplyConflict):  # somebody writes there now, and did this first
                said.append(why)
    return tuple(said)


@asynccontextmanager
async def writing(roots: Sequence[Path], *, rooms: Rooms, store: Store, emit: Emit) -> AsyncIterator[None]:
    """The one writer in these paths, after what a dead one left there was ended. Raises ApplyConflict, SandboxFailed."""
    state_dir = state_of(store)
    while True:
        # Not under our own lock: a dead write may need locks on more paths, and whoever waits must hold nothing.
        for sentence in await recover(state_dir, engine=rooms.engine, roots=roots, image=rooms.image):
            emit(Notice(text=sentence, level="warning"))
        async with one_writer(state_dir / LOCKS, roots):
            if await anyio.to_thread.run_sync(_is_free, state_dir, roots):
                yield
                return


def left_by(written: Snapshot, undo: Snapshot) -> dict[Key, str]:
    """What each path of an undo must still hold: what the write left there."""
    touched = after(written)
    return {(e.root, e.path): touched.get((e.root, e.path), "") for e in undo.entries}


def _is_free(state_dir: Path, roots: Sequence[Path]) -> bool:
    found, _ = leases.held_leases(state_dir)
    return not any(held.dead and held.touches(roots) and not _gone(held) for held in found)


async def _recover(held: Held, state_dir: Path, engine: Engine, image: str, *, wait_s: float) -> list[str]:
    """One record. Raises ApplyConflict (somebody is at it), SandboxError."""
    if gone := await anyio.to_thread.run_sync(_gone, held):
        return [f"run {held.run_id} was killed while it wrote in {gone}, which is not there; it is ended when it is back"]
    async with one_writer(state_dir / LOCKS, [Path(root) for root in held.roots], wait_s=wait_s):
        if not await anyio.to_thread.run_sync(leases.is_held, state_dir, held):
            return []
        store = await anyio.to_thread.run_sync(Store, state_dir / "store")
        with _log(state_dir, held) as emit:
            try:
                await engine.image(held.image)
                usable = held.image
            except ImageMissing:
                usable = image or held.image
            rooms = Rooms(run_id=held.run_id, engine=engine, emit=emit, image=usable, runtime=held.runtime)
            try:
                sentence = await _end(held, rooms, store, emit)
            except SnapshotError as error:
                kept = await anyio.to_thread.run_sync(leases.give_up, state_dir, held.stage)
                sentence = (
                    f"run {held.run_id} was killed while it wrote in {_places(held)}, and what it needs to be ended is gone "
                    f"({error}); look at that project by hand, {kept} says what was written"
                )
            emit(Notice(text=sentence, level="warning"))
        return [sentence]


async def _end(held: Held, rooms: Rooms, store: Store, emit: Emit) -> str:
    """End it; what is to be said. Raises SandboxError."""
    found, written = await end_write(held, rooms=rooms, store=store, emit=emit)
    if held.purpose == "direct":
        return await _take_back(held, rooms, store, emit)
    if written:
        emit(Applied(purpose=held.purpose, snapshot=written.snapshot.id, undo=written.undo.id, files=written.files))
    await anyio.to_thread.run_sync(_settle, held, store, written)
    return _sentence(held, written=bool(written)) + _torn(found.torn, held)


async def _take_back(held: Held, rooms: Rooms, store: Store, emit: Emit) -> str:
    """What a final turn in the project had done when it was killed, however far it was."""
    target = Target(roots=tuple(map(Path, held.roots)), protected=tuple(map(Path, held.protected)))
    before = await anyio.to_thread.run_sync(store.get_snapshot, held.before)
    done = await anyio.to_thread.run_sync(account, surveyed(before), target.roots, store)
    if done.snapshot.entries:
        # On record before it is taken back, so that whoever cuts this off leaves something that can be undone.
        known = replace(held, snapshot=done.snapshot.id, undo=done.undo.id)
        await anyio.to_thread.run_sync(_record, known, store, done)
        await write(
            "undo",
            done.undo,
            left_by(done.snapshot, done.undo),
            agent=held.agent,
            target=target,
            rooms=rooms,
            store=store,
            emit=emit,
        )
    await anyio.to_thread.run_sync(leases.drop, state_of(store), held)
    files = len(done.files)
    return f"run {held.run_id} was killed while its final agent worked in the project; {files} files are as they were before" + (
        f", and `massgen undo --redo {held.run_id}` gives back what it had done" if files else ""
    )


def _settle(held: Held, store: Store, written: object) -> None:
    _record(held, store, written)
    leases.drop(state_of(store), held)


def _record(held: Held, store: Store, written: object) -> None:
    """What the run's own record says from now on. Blocks."""
    folder = run_folder(store, held.run_id)
    with contextlib.suppress(MassgenError):  # the run was removed by hand; the project is what counts
        records.save(folder, held.settled(records.load(folder), done=bool(written)))
    for staged in folder.glob(f".{records.FILE}.*"):
        staged.unlink(missing_ok=True)


def _sentence(held: Held, *, written: bool) -> str:
    run = held.run_id
    redo = held.undone is not None and held.undone.snapshot == held.snapshot
    match held.purpose, written:
        case "undo", True:
            return f"the undo of run {run} was killed and has been finished now; write it again: massgen undo --redo {run}"
        case "undo", False:
            return f"the undo of run {run} was killed; the project holds all that it was to take back: massgen undo {run}"
        case _, True:
            return f"run {run} was killed while it wrote; all of its change is in the project; take it back: massgen undo {run}"
        case _:
            again = f"massgen undo --redo {run}" if redo else f"massgen apply {run}"
            return f"run {run} was killed while it wrote; the project is as it was before; write its change: {again}"


def _torn(torn: Sequence[str], held: Held) -> str:
    if not torn:
        return ""
    some = ", ".join(torn[:SHOWN_PATHS]) + (f" and {len(torn) - SHOWN_PATHS} more" if len(torn) > SHOWN_PATHS else "")
    return f"; changed since by somebody else, and left alone: {some} (what belongs there is in .massgen-lease-{held.stage})"


def _damaged(state_dir: Path, stage: str) -> str:
    kept = leases.give_up(state_dir, stage)
    return f"a record of a write that may have been killed cannot be read; if a project looks half written, see {kept}"


def _gone(held: Held) -> str:
    return next((root for root in held.roots if not Path(root).exists()), "")


def _places(held: Held) -> str:
    return ", ".join(held.roots)


@contextlib.contextmanager
def _log(state_dir: Path, held: Held) -> Iterator[Emit]:
    """A log of its own beside those of the run's other writes: the run's may have its end already."""
    folder = state_dir / "runs" / held.run_id
    if not folder.is_dir():

        def nowhere(event: Event) -> None:
            del event

        yield nowhere
        return
    with EventLog(records.next_write(folder, "recover"), held.run_id) as log:

        def end(outcome: Literal["recovered", "failed"], code: int, message: str = "") -> None:
            log.emit(RunFinished(exit_code=code, outcome=outcome, message=message))

        try:
            yield log.emit
        except BaseException as error:
            end("failed", SandboxFailed.exit_code, str(error))
            raise
        end("recovered", 0)
