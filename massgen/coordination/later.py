"""A run's change after the run: show it, write it, take it back. Each write has an event log of its own.

The log of the run ended with its terminal event and stays closed; `runs/<id>/writes/001-apply/events.jsonl` has the
lease, what came of it, and its own end.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from massgen.coordination import record as records
from massgen.coordination.archive import patch_of
from massgen.coordination.branch import Commit, to_branch
from massgen.coordination.merge import moved_paths
from massgen.coordination.record import Record
from massgen.coordination.risks import Risk
from massgen.coordination.rooms import Rooms
from massgen.coordination.start import clean_start
from massgen.coordination.survey import Written
from massgen.coordination.target import Target
from massgen.coordination.writeback import apply_snapshot, risks_of, undo_snapshot
from massgen.errors import ConfigError, MassgenError, SandboxFailed
from massgen.events.log import EventLog, Reader
from massgen.events.types import RunFinished
from sandbox import Engine, Entry, SandboxError, Snapshot, Store
from sandbox.base import Base, absolute
from sandbox.patch import Patch


@dataclass(frozen=True, kw_only=True)
class Later:
    """What came of an apply or undo."""

    run_id: str
    files: tuple[str, ...]
    """Absolute paths that were written, changed or removed."""
    earlier: int = 0
    """Writes of other parts of the result that stand still, after an undo."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How much of a result is in the project now."""

    written: int
    """Files."""
    left: int
    undone: bool
    """The last thing that happened to it was an undo."""


def standing(state_dir: Path, record: Record) -> Standing | None:
    """What became of a result after its run; None: there is none. Blocks."""
    if not record.snapshot:
        return None
    store = Store(state_dir / "store")
    files = [(e.root, e.path) for e in _result(record, store)[1].entries if e.kind != "dir"]
    done = _done(record, store)
    written = sum(key in done for key in files)
    return Standing(written=written, left=len(files) - written, undone=record.undone is not None)


def diff(state_dir: Path, run: str) -> str:
    """The result of a run as a patch against the project as it was. Blocks. Raises ConfigError."""
    return patch(state_dir, run).text


def patch(state_dir: Path, run: str, *, only: Sequence[Path] = (), binary: bool = False) -> Patch:
    """The same, or a part of it, with its figures. `binary`: with the bytes of files that are not text, for `git apply`."""
    _, record = records.find(state_dir, run)
    store = Store(state_dir / "store")
    base, snapshot = _result(record, store)
    if only:
        snapshot = _chosen(snapshot, only, replace(record, written=None, earlier=()), store)
    return patch_of(snapshot, base, store, binary=binary)


def moved(state_dir: Path, run: str) -> tuple[str, ...]:
    """Files of a result that the user changed since the agents saw them: absolute paths. Blocks. Raises ConfigError."""
    _, record = records.find(state_dir, run)
    store = Store(state_dir / "store")
    base, whole = _result(record, store)
    return () if record.written else moved_paths(whole, base)


def branch(state_dir: Path, run: str, name: str, *, only: Sequence[Path] = ()) -> Commit:
    """The result of a run, or a part of it, as a commit on a new branch of its repository. Blocks. Raises ConfigError."""
    _, record = records.find(state_dir, run)
    store = Store(state_dir / "store")
    _, whole = _result(record, store)
    snapshot = _chosen(whole, only, replace(record, written=None, earlier=()), store)
    title = (record.prompt.strip().splitlines() or ["massgen"])[0][:72]
    return to_branch(name, snapshot, store, message=f"{title}\n\nmassgen run {record.run_id}\n")


def risks(state_dir: Path, run: str, *, only: Sequence[Path] = ()) -> tuple[Risk, ...]:
    """What of a result, or of a part of it, runs by itself once it is written. Blocks. Raises ConfigError."""
    _, record = records.find(state_dir, run)
    store = Store(state_dir / "store")
    base, whole = _result(record, store)
    return risks_of(_chosen(whole, only, record, store), base, store) if whole.entries else ()


async def apply(
    state_dir: Path,
    run: str,
    *,
    engine: Engine,
    only: Sequence[Path] = (),
    allowed: frozenset[str] = frozenset(),
    readers: Sequence[Reader] = (),
    say: Callable[[str], None] = lambda _line: None,
) -> Later:
    """Write the result of a run, or of it what lies at or below `only` (absolute paths); what was written already stays.

    `allowed`: classes of `risks.py` that the user has consented to. `say` hears what became of writes that were killed.

    Raises ConfigError (nothing to write, or written already), ConsentNeeded, ApplyConflict, SandboxFailed.
    """
    folder, record = await _found(state_dir, run, engine, say)
    store = Store(state_dir / "store")
    base, whole = _result(record, store)
    if not whole.entries:
        raise ConfigError(f"run {record.run_id} changed no file of the project; there is nothing to apply")
    snapshot = _chosen(whole, only, record, store)

    async def write(log: EventLog) -> Written:
        rooms = Rooms(run_id=record.run_id, engine=engine, emit=log.emit, image=record.image, runtime=record.runtime)
        return await apply_snapshot(
            snapshot,
            agent=record.winner,
            target=_target(record),
            base=base,
            rooms=rooms,
            store=store,
            log=log,
            allowed=allowed,
            still=lambda: _as_found(folder, record),
        )

    written = await _logged("apply", folder, record, readers, write)
    return Later(run_id=record.run_id, files=written.files)


def _chosen(whole: Snapshot, only: Sequence[Path], record: Record, store: Store) -> Snapshot:
    """What is to be written now. Raises ConfigError when that is nothing."""
    done = _done(record, store)
    left = [e for e in whole.entries if (e.root, e.path) not in done]
    if not left:
        raise ConfigError(f"run {record.run_id} was written already; `massgen undo {record.run_id}` takes it back")
    if not only:
        return replace(whole, entries=tuple(left))
    chosen: list[Entry] = []
    for wanted in only:
        found = [e for e in left if Path(absolute(e.root, e.path)).is_relative_to(wanted)]
        if not found:
            some = ", ".join(absolute(e.root, e.path) for e in left[:5])
            raise ConfigError(f"run {record.run_id} changes nothing at {wanted} that is not written yet; it changes {some}")
        chosen += [e for e in found if e not in chosen]
    # With the folders that the result makes above it, or an undo would not know that they were made.
    places = [Path(absolute(e.root, e.path)) for e in chosen]
    above = {path for place in places for path in place.parents}
    chosen += [e for e in left if e.kind == "dir" and e not in chosen and Path(absolute(e.root, e.path)) in above]
    return replace(whole, entries=tuple(chosen))


def _done(record: Record, store: Store) -> set[tuple[str, str]]:
    writes = [write for write in (record.written, *record.earlier) if write]
    return {(e.root, e.path) for write in writes for e in store.get_snapshot(write.snapshot).entries}


async def undo(
    state_dir: Path,
    run: str,
    *,
    engine: Engine,
    redo: bool = False,
    readers: Sequence[Reader] = (),
    say: Callable[[str], None] = lambda _line: None,
) -> Later:
    """Take the last write of a run back, or with `redo` the last undo. `say`: see `apply`.

    Raises ConfigError (nothing was written, or taken back), ApplyConflict (later edits), SandboxFailed.
    """
    folder, record = await _found(state_dir, run, engine, say)
    last = record.undone if redo else record.written
    if last is None:
        what = "has no undo that could be taken back" if redo else "wrote nothing that could be taken back"
        then = "`massgen runs` says which ones are written"
        if record.undone and not redo:
            what, then = "is taken back already", "`massgen undo --redo` writes it again"
        raise ConfigError(f"run {record.run_id} {what}; {then}")
    store = Store(state_dir / "store")
    done, back = store.get_snapshot(last.snapshot), store.get_snapshot(last.undo)

    async def write(log: EventLog) -> Written:
        rooms = Rooms(run_id=record.run_id, engine=engine, emit=log.emit, image=record.image, runtime=record.runtime)
        now, then = (back, done) if redo else (done, back)
        return await undo_snapshot(
            now,
            then,
            agent=record.winner,
            target=_target(record),
            rooms=rooms,
            store=store,
            log=log,
            purpose="apply" if redo else "undo",
            still=lambda: _as_found(folder, record),
        )

    written = await _logged("apply" if redo else "undo", folder, record, readers, write)
    folders = {absolute(e.root, e.path) for e in (*done.entries, *back.entries) if e.kind == "dir"}
    files = tuple(file for file in written.files if file not in folders)
    return Later(run_id=record.run_id, files=files, earlier=len(record.earlier) if not redo else 0)


def _as_found(folder: Path, record: Record) -> None:
    """Raises ConfigError when another command has written the result, or taken it back, since its record was read. Blocks."""
    now = records.load(folder)
    if (now.written, now.earlier, now.undone) != (record.written, record.earlier, record.undone):
        raise ConfigError(
            f"nothing was written: another massgen has just {'written' if now.written else 'taken back'} the result of "
            f"run {record.run_id}; `massgen show {record.run_id}` says how it stands"
        )


async def _found(state_dir: Path, run: str, engine: Engine, say: Callable[[str], None]) -> tuple[Path, Record]:
    """The run that is meant, after every write that was killed has been ended."""
    _, record = records.find(state_dir, run)
    try:
        found = await clean_start(state_dir, engine=engine, roots=map(Path, record.roots), image=record.image)
    except SandboxError as error:
        raise SandboxFailed(str(error)) from error
    for sentence in found.ended:
        say(sentence)
    return records.find(state_dir, record.run_id)


async def _logged(
    purpose: Literal["apply", "undo"],
    folder: Path,
    record: Record,
    readers: Sequence[Reader],
    write: Callable[[EventLog], Awaitable[Written]],
) -> Written:
    began = time.monotonic()
    with EventLog(records.next_write(folder, purpose), record.run_id, readers=readers) as log:

        def end(outcome: str, code: int, message: str = "") -> None:
            seconds = round(time.monotonic() - began, 3)
            log.emit(RunFinished(exit_code=code, outcome=outcome, message=message, winner=record.winner, seconds=seconds))

        try:
            written = await write(log)
        except MassgenError as error:
            end("conflict" if error.exit_code == 5 else "failed", error.exit_code, str(error))
            raise
        except SandboxError as error:
            end("sandbox", SandboxFailed.exit_code, str(error))
            raise SandboxFailed(str(error)) from error
        except BaseException:
            end("stopped", 130)
            raise
        end("applied" if purpose == "apply" else "undone", 0)
        return written


def _result(record: Record, store: Store) -> tuple[Base, Snapshot]:
    """The project as the run saw it, and the part of the result that lies in it. Raises ConfigError when there is no result."""
    base = Base.from_json(map(Path, record.roots), store, record.originals)
    return base, base.project(store.get_snapshot(_snapshot(record)))


def _target(record: Record) -> Target:
    return Target(roots=tuple(map(Path, record.roots)), protected=tuple(map(Path, record.protected)))


def _snapshot(record: Record) -> str:
    if not record.snapshot:
        then = "`massgen run` starts a new one"
        if record.status == "running":
            then = f"wait for its end, or, if it was killed: massgen resume {record.run_id}"
        raise ConfigError(f"run {record.run_id} has no result ({record.status}); {then}")
    return record.snapshot
