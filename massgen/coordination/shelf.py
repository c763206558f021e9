"""The runs that are kept: list them, and throw away what nobody will ask for again.

A run is told living from its owner's process, never by age. Contents lie in one store that all runs share: a blob goes when no
manifest names it, a manifest when no kept run does, and neither before it is an hour old, as a run at work stores first and says
so afterwards.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from massgen.coordination import record as records
from massgen.coordination import tidy
from massgen.coordination.leases import held_leases
from massgen.coordination.originals import Originals
from massgen.coordination.record import Record
from massgen.coordination.resume import why_not
from massgen.errors import ConfigError
from massgen.events.codec import LogError
from massgen.events.replay import read
from massgen.events.types import AnswerGiven, Applied, LeaseGranted, Presented
from sandbox import SnapshotError, Store

YOUNG_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Shelved:
    """One run on the disk."""

    folder: Path
    record: Record
    alive: bool
    """Its process still runs."""
    bytes: int
    """Of its own folder, without the shared store."""
    resumable: bool = False
    """`massgen resume` goes on with it."""

    @property
    def status(self) -> str:
        """The outcome; `killed` for a run that says it goes on and whose process is gone."""
        return "killed" if self.record.status == "running" and not self.alive else self.record.status

    @property
    def started(self) -> datetime:
        """When it began."""
        return datetime.fromisoformat(self.record.started)


def shelf(state_dir: Path) -> tuple[Shelved, ...]:
    """All runs that left a readable record, the last one first. Blocks."""
    found = list(_found(state_dir))
    return tuple(sorted(found, key=lambda run: (run.started, run.folder.name), reverse=True))


def _found(state_dir: Path) -> Iterator[Shelved]:
    for path in (state_dir / "runs").glob(f"*/{records.FILE}"):
        with suppress(ConfigError, ValueError, OSError):
            folder, record = path.parent, records.load(path.parent)
            applied = record.written and any(folder.glob("writes/*-apply"))
            able = bool(record.invocation) and not applied and not why_not(folder, record)
            yield Shelved(folder=folder, record=record, alive=tidy.living(folder), bytes=_size(folder), resumable=able)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What was, or would be, removed."""

    runs: tuple[str, ...]
    blobs: int
    bytes: int


def collect(
    state_dir: Path, *, keep_days: float, keep_bytes: int | None = None, dry_run: bool = False, now: datetime | None = None
) -> Swept:
    """Remove runs older than `keep_days`, then the oldest until the store fits `keep_bytes`, then contents nobody names. Blocks.

    A living run is kept always; one whose change is in the project and can be taken back, within its days, whatever its size.
    """
    now = now or datetime.now(UTC)
    runs = shelf(state_dir)
    pending = _pending(state_dir)
    gone = [run for run in runs if not run.alive and run.record.run_id not in pending]
    old = [run for run in gone if now - run.started > timedelta(days=keep_days)]
    kept = [run for run in runs if run not in old]
    store = Store(state_dir / "store")
    if keep_bytes is not None:
        spare = [run for run in gone if run in kept and run.record.written is None]
        while spare and _weight(kept, store) > keep_bytes:
            oldest = spare.pop()
            kept.remove(oldest)
            old.append(oldest)
    size = sum(run.bytes for run in old)
    if not dry_run:
        for run in old:
            shutil.rmtree(run.folder, ignore_errors=True)
    blobs, freed = _sweep_store(kept, store, {name for names in pending.values() for name in names}, dry_run=dry_run)
    return Swept(runs=tuple(run.record.run_id for run in old), blobs=blobs, bytes=size + freed)


def _pending(state_dir: Path) -> dict[str, set[str]]:
    """Runs with a write that is still to be ended, and the snapshots that it takes."""
    pending: dict[str, set[str]] = {}
    for held in held_leases(state_dir)[0]:
        pending.setdefault(held.run_id, set()).update({held.snapshot, held.undo, held.before} - {""})
    return pending


def _weight(runs: Iterable[Shelved], store: Store) -> int:
    blobs: set[str] = set()
    total = 0
    for run in runs:
        total += run.bytes
        blobs |= _blobs(run, store)
    return total + sum(store.path(blob).stat().st_size for blob in blobs if store.has(blob))


def _sweep_store(kept: Iterable[Shelved], store: Store, manifests: set[str], *, dry_run: bool) -> tuple[int, int]:
    blobs = _contents(manifests, store)
    for run in kept:
        manifests |= _manifests(run)
        blobs |= _blobs(run, store)
    count, freed = 0, 0
    deadline = time.time() - YOUNG_S
    for path in (store.folder / "snapshots").iterdir():
        if path.name not in manifests and path.stat().st_mtime < deadline and not dry_run:
            path.unlink(missing_ok=True)
    for path in (store.folder / "blobs").glob("??/*"):
        about = path.stat()
        if path.parent.name + path.name not in blobs and about.st_mtime < deadline:
            count, freed = count + 1, freed + about.st_blocks * 512
            if not dry_run:
                path.unlink(missing_ok=True)
    return count, freed


def _manifests(run: Shelved) -> set[str]:
    """Every snapshot that the run's record or any of its logs names."""
    record = run.record
    writes = [write for write in (record.written, *record.earlier, record.undone) if write]
    found = {record.snapshot} | {name for write in writes for name in (write.snapshot, write.undo)}
    for log in (run.folder / "events.jsonl", *run.folder.glob("writes/*/events.jsonl")):
        with suppress(OSError, LogError):
            for envelope in read(log):
                match envelope.event:
                    case AnswerGiven() | Presented() | LeaseGranted() as event:
                        found.add(event.snapshot)
                    case Applied() as event:
                        found |= {event.snapshot, event.undo}
                    case _:
                        pass
    return found - {""}


def _blobs(run: Shelved, store: Store) -> set[str]:
    rows = (*run.record.originals, *Originals(run.folder).load())
    found = {run.record.listing} | {str(row.get("sha256", "")) for row in rows}
    return (found | _contents(_manifests(run), store)) - {""}


def _contents(manifests: Iterable[str], store: Store) -> set[str]:
    found: set[str] = set()
    for manifest in manifests:
        with suppress(SnapshotError):
            found |= {entry.sha256 for entry in store.get_snapshot(manifest).entries}
    return found


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
