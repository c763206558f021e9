"""What is on the disk of a lease, from before its container may write until all of it is over.

The journal of a write lies in the project, beside the staged files; that there is one, what belongs there and who was at it is
known here alone. A record that is still there when its process is gone names a write that was killed: `recovery.py` ends it.
They lie in one folder for all runs, not in the run's own, so that every start finds them without reading a single log: a log
grows with the run, and its last line, the very one that granted the lease, may be torn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from massgen.coordination import record as records
from massgen.coordination.record import Record, WriteRecord
from massgen.events.log import sync_folder
from sandbox import owner, scratch

VERSION = 1
LEASES = "leases"
"""Beside the store, in the state folder."""
LOST = ".lost"
"""The ending of a record that nobody can recover by; kept for a person to read, never looked at again."""

Purpose = Literal["apply", "undo", "direct"]

_ours: set[str] = set()
"""Stages of the leases that this process is busy with."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """One lease that may have written."""

    stage: str
    """The lease's own name for its files in the project; the record's name, too."""
    owner: str
    run_id: str
    agent: str
    purpose: Purpose
    roots: tuple[str, ...]
    protected: tuple[str, ...]
    """Those that were mounted read-only."""
    image: str
    snapshot: str
    """What is written as one transaction."""
    undo: str = ""
    """What takes it back; empty until everything is staged: no byte of the project has changed then."""
    journal: str = ""
    """Its hash."""
    runtime: str = ""
    """As the run asked for it."""
    before: str = ""
    """For `direct`: the whole of the write paths as it was, as a snapshot."""
    written: WriteRecord | None = None
    """What `run.json` said before; with the two below."""
    earlier: tuple[WriteRecord, ...] = ()
    undone: WriteRecord | None = None

    def settled(self, record: Record, *, done: bool) -> Record:
        """The run's record when this write is over, with all or with nothing. Said twice it is the same."""
        was = replace(record, written=self.written, earlier=self.earlier, undone=self.undone)
        if not done:
            return was
        if self.purpose == "undo":
            return records.unwrote(was)
        return records.wrote(was, WriteRecord(purpose=self.purpose, snapshot=self.snapshot, undo=self.undo))

    def touches(self, roots: Iterable[Path]) -> bool:
        """Whether one of its paths is one of these, lies in one, or holds one."""
        mine = [Path(root) for root in self.roots]
        return any(a.is_relative_to(b) or b.is_relative_to(a) for a in mine for b in roots)

    @property
    def dead(self) -> bool:
        """Nobody is at it any more: its process is gone, or is this one and has given up."""
        if self.owner == owner.me():
            return self.stage not in _ours
        return not owner.alive(self.owner)


def hold(state_dir: Path, held: Held) -> None:
    """Onto the disk, whole, before the lease does what it says. Blocks."""
    folder = state_dir / LEASES
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _ours.add(held.stage)  # before anybody can read it: what is not ours has been left
    scratch.write(folder / f"{held.stage}.json", json.dumps({"v": VERSION, **asdict(held)}, indent=1).encode("ascii"))
    sync_folder(folder)


def leave(held: Held) -> None:
    """It did not end, and nobody is at it any more: the next start ends it, or this process when it tries again."""
    _ours.discard(held.stage)


def drop(state_dir: Path, held: Held) -> None:
    """It ended whole: nothing is left to recover. Blocks."""
    (state_dir / LEASES / f"{held.stage}.json").unlink(missing_ok=True)
    _ours.discard(held.stage)


def is_held(state_dir: Path, held: Held) -> bool:
    """Whether nobody has ended it meanwhile. Blocks."""
    return (state_dir / LEASES / f"{held.stage}.json").exists()


def give_up(state_dir: Path, stage: str) -> Path:
    """Nobody can recover by it; returns where it stays for a person. Blocks."""
    place = state_dir / LEASES / f"{stage}.json"
    kept = place.with_suffix(LOST)
    with suppress(FileNotFoundError):
        place.rename(kept)
    return kept


def held_leases(state_dir: Path) -> tuple[list[Held], list[str]]:
    """All records, `direct` last, as what takes one of those back has a record too; and stages that cannot be read. Blocks."""
    found: list[Held] = []
    damaged: list[str] = []
    for place in sorted((state_dir / LEASES).glob("*.json")):
        try:
            found.append(_decode(place))
        except FileNotFoundError:
            continue  # ended by somebody else just now
        except (ValueError, TypeError, KeyError, AttributeError):
            damaged.append(place.stem)
    return sorted(found, key=lambda held: held.purpose == "direct"), damaged


def _decode(place: Path) -> Held:
    row: dict[str, Any] = json.loads(place.read_text(encoding="ascii"))
    if row.pop("v") != VERSION or row["stage"] != place.stem:
        raise ValueError(place.name)
    written, undone = row.pop("written"), row.pop("undone")
    row |= {name: tuple(map(str, row[name])) for name in ("roots", "protected")}
    row["earlier"] = tuple(WriteRecord(**one) for one in row["earlier"])
    return Held(**row, written=WriteRecord(**written) if written else None, undone=WriteRecord(**undone) if undone else None)
