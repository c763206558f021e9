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
from massgen.coordination.base import Base
from massgen.coordination.record import Record, WriteRecord
from massgen.coordination.rooms import Rooms
from massgen.coordination.writeback import Target, Written, apply_snapshot, undo_snapshot
from massgen.errors import ConfigError, MassgenError, SandboxFailed
from massgen.events.log import EventLog, Reader
from massgen.events.types import RunFinished
from sandbox import Engine, SandboxError, Store


@dataclass(frozen=True, kw_only=True)
class Later:
    """What came of an apply or undo."""

    run_id: str
    files: tuple[str, ...]
    """Absolute paths that were written, changed or removed."""


def diff(state_dir: Path, run: str) -> str:
    """The result of a run as a patch against the project as it was. Blocks. Raises ConfigError when it has none."""
    _, record = records.find(state_dir, run)
    store = Store(state_dir / "store")
    base = _base(record, store)
    return patch_of(base.project(store.get_snapshot(_snapshot(record))), base, store).text


async def apply(state_dir: Path, run: str, *, engine: Engine, readers: Sequence[Reader] = ()) -> Later:
    """Write the result of a run. Raises ConfigError (nothing to write, or written already), ApplyConflict, SandboxFailed."""
    folder, record = records.find(state_dir, run)
    if record.written:
        raise ConfigError(f"run {record.run_id} was written already; `massgen undo {record.run_id}` takes it back")
    store = Store(state_dir / "store")
    base = _base(record, store)
    snapshot = base.project(store.get_snapshot(_snapshot(record)))
    if not snapshot.entries:
        raise ConfigError(f"run {record.run_id} changed no file of the project; there is nothing to apply")

    async def write(log: EventLog) -> Written:
        rooms = Rooms(run_id=record.run_id, engine=engine, emit=log.emit, image=record.image)
        return await apply_snapshot(
            snapshot, agent=record.winner, target=_target(record), base=base, rooms=rooms, store=store, log=log
        )

    written = await _logged("apply", folder, record, readers, write)
    kept = WriteRecord(purpose="apply", snapshot=written.snapshot.id, undo=written.undo.id)
    records.save(folder, replace(record, written=kept))
    return Later(run_id=record.run_id, files=written.files)


async def undo(state_dir: Path, run: str, *, engine: Engine, readers: Sequence[Reader] = ()) -> Later:
    """Take the write of a run back. Raises ConfigError (nothing was written), ApplyConflict (later edits), SandboxFailed."""
    folder, record = records.find(state_dir, run)
    if record.written is None:
        raise ConfigError(f"run {record.run_id} wrote nothing that could be taken back")
    store = Store(state_dir / "store")
    done, back = store.get_snapshot(record.written.snapshot), store.get_snapshot(record.written.undo)

    async def write(log: EventLog) -> Written:
        rooms = Rooms(run_id=record.run_id, engine=engine, emit=log.emit, image=record.image)
        return await undo_snapshot(done, back, agent=record.winner, target=_target(record), rooms=rooms, store=store, log=log)

    written = await _logged("undo", folder, record, readers, write)
    records.save(folder, replace(record, written=None))
    return Later(run_id=record.run_id, files=written.files)


async def _logged(
    purpose: Literal["apply", "undo"],
    folder: Path,
    record: Record,
    readers: Sequence[Reader],
    write: Callable[[EventLog], Awaitable[Written]],
) -> Written:
    began = time.monotonic()
    with EventLog(_next_folder(folder / "writes", purpose), record.run_id, readers=readers) as log:

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


def _next_folder(writes: Path, purpose: str) -> Path:
    writes.mkdir(exist_ok=True)
    folder = writes / f"{len(list(writes.iterdir())) + 1:03d}-{purpose}"
    folder.mkdir()
    return folder


def _base(record: Record, store: Store) -> Base:
    return Base.from_json(map(Path, record.roots), store, record.originals)


def _target(record: Record) -> Target:
    return Target(roots=tuple(map(Path, record.roots)), protected=tuple(map(Path, record.protected)))


def _snapshot(record: Record) -> str:
    if not record.snapshot:
        raise ConfigError(f"run {record.run_id} has no result ({record.status}); `massgen run` starts a new one")
    return record.snapshot
