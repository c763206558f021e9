"""`run.json`: what must be known of a run after it ended, to show, apply or undo its change.

The event log stays the truth of what happened; this is the small part that later commands need without reading
it: where was written, what was there, which snapshot is the result. Replaced atomically, never edited in place.
"""

from __future__ import annotations

import errno
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from massgen.errors import ConfigError
from sandbox import scratch

VERSION = 1
FILE = "run.json"

_WORDS = tuple(
    """
    acorn aspen badger basil beacon birch bison cedar cobalt comet coral crane delta ember falcon fennel fern finch
    garnet ginger glacier harbor hazel heron indigo iris jasper juniper kestrel lagoon larch lemur lichen linden lotus
    lynx maple marlin meadow merlin nectar nutmeg ocean onyx opal orchid otter panda pebble pine plover poppy quail
    quartz raven reed robin saffron sage sorrel sparrow spruce tern thistle topaz tulip umber violet walnut willow wren
    """.split()  # noqa: SIM905  (seventy quoted words would be harder to read)
)


@dataclass(frozen=True, kw_only=True)
class WriteRecord:
    """The last write of a run: by it the project holds `snapshot`, and `undo` takes it back."""

    purpose: Literal["apply", "direct"]
    snapshot: str
    undo: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run, for later commands."""

    run_id: str
    started: str
    prompt: str
    image: str
    write_mode: str
    verify: str
    roots: tuple[str, ...]
    """The write paths."""
    protected: tuple[str, ...] = ()
    runtime: str = ""
    """The engine's runtime that the run asked for; every later write runs under it, too."""
    agents: tuple[Mapping[str, str], ...] = ()
    """{id, label}, registration order."""
    listing: str = ""
    """Blob of what the write paths held at the start (`Base.listing_json`)."""
    invocation: Mapping[str, Any] = field(default_factory=dict)
    """How the command line began it (`flags`, `cwd`), to load its config again. Empty: it was begun from Python."""
    status: str = "running"
    """`running`, then the outcome of RunFinished. A run that was killed stays `running`."""
    exit_code: int | None = None
    winner: str = ""
    """Label."""
    answer: str = ""
    """The voted answer's id."""
    snapshot: str = ""
    """The result; empty: there is none."""
    originals: tuple[Mapping[str, Any], ...] = ()
    """What the project held where snapshots touched it (`Base.originals_json`)."""
    written: WriteRecord | None = None
    """The last write that stands. None: nothing was written, or all of it was taken back."""
    earlier: tuple[WriteRecord, ...] = ()
    """Writes of other parts before it, which `undo` takes back in turn."""
    undone: WriteRecord | None = None
    """What the last `undo` took back, for `undo --redo`; forgotten with the next write."""

    def concerns(self, folder: Path) -> bool:
        """Whether it was begun there, or is about something at, above or below it."""
        roots = map(Path, self.roots)
        begun = self.invocation.get("cwd") == str(folder)
        return begun or any(folder.is_relative_to(root) or root.is_relative_to(folder) for root in roots)

    def winner_id(self) -> str:
        """The configured id of the winner, empty when there is none."""
        return next((agent["id"] for agent in self.agents if agent["label"] == self.winner), "")


def save(folder: Path, record: Record) -> None:
    """Write `run.json` whole, or leave the old one. Blocks."""
    scratch.write(folder / FILE, json.dumps({"v": VERSION, **asdict(record)}, indent=1).encode("ascii"))


def load(folder: Path) -> Record:
    """The record in a run folder. Raises ConfigError: missing, damaged, or of another version."""
    path = folder / FILE
    try:
        row: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
        if row.pop("v", None) != VERSION:
            raise ConfigError(f"{path} is of another version of massgen; use the one that made the run")
        written, undone = row.pop("written"), row.pop("undone", None)
        row["earlier"] = tuple(WriteRecord(**one) for one in row.get("earlier", ()))
        row |= {name: tuple(row[name]) for name in ("roots", "protected", "agents", "originals")}
        return Record(
            **row,
            written=WriteRecord(**written) if written else None,
            undone=WriteRecord(**undone) if undone else None,
        )
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: the run ended before it began") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def new_run(
    state_dir: Path, *, run_id: str | None = None, now: datetime | None = None, holding: Mapping[str, str] | None = None
) -> Path:
    """A fresh run folder (mode 0700), named `20261121-1230-otter`. Raises ConfigError when `run_id` exists.

    `holding`: small files that are in it from the first moment that it is there.
    """
    runs = state_dir / "runs"
    runs.mkdir(parents=True, exist_ok=True, mode=0o700)
    stamp = (now or datetime.now().astimezone()).strftime("%Y%m%d-%H%M")
    with scratch.folder("run", home=runs) as staged:
        for file, text in (holding or {}).items():
            scratch.write(staged / file, text.encode("ascii"))
        for attempt in range(1000):
            name = run_id or f"{stamp}-{secrets.choice(_WORDS)}" + (f"-{attempt}" if attempt > 10 else "")
            try:
                if not (runs / name).exists():
                    return staged.rename(runs / name)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another was faster
                    raise
            if run_id:
                raise ConfigError(f"run {run_id} exists already; choose another id")
    raise ConfigError(f"{runs} holds a thousand runs of this minute")


def next_write(folder: Path, purpose: str) -> Path:
    """A fresh folder for the log of a write after the run: `writes/001-apply`. Blocks."""
    writes = folder / "writes"
    writes.mkdir(exist_ok=True)
    while True:
        made = writes / f"{len(list(writes.iterdir())) + 1:03d}-{purpose}"
        with suppress(FileExistsError):  # another command was faster
            made.mkdir()
            return made


def find(state_dir: Path, prefix: str, *, here: Path | None = None) -> tuple[Path, Record]:
    """The run that a unique prefix names; empty: the last one, with `here` the last one of that folder if there is any.

    Raises ConfigError: none, or several.
    """
    runs = state_dir / "runs"
    names = sorted(path.name for path in runs.iterdir() if (path / FILE).is_file()) if runs.is_dir() else []
    if not names:
        raise ConfigError("there is no run yet; start one with `massgen run`")
    if not prefix:
        every = [load(runs / name) for name in names]
        near = [record for record in every if here and record.concerns(here)]
        found = max(near or every, key=lambda record: record.started)
        return runs / found.run_id, found
    hits = [prefix] if prefix in names else [name for name in names if name.startswith(prefix)]
    if len(hits) > 1:
        raise ConfigError(
            f"{len(hits)} runs begin with {prefix!r}, {', '.join(hits[-5:])} among them; type more of the one you mean"
        )
    if not hits:
        raise ConfigError(f"no run begins with {prefix!r}; `massgen runs` lists them")
    return runs / hits[0], load(runs / hits[0])


def wrote(record: Record, write: WriteRecord) -> Record:
    """The record after a write."""
    earlier = record.earlier + ((record.written,) if record.written else ())
    return replace(record, written=write, earlier=earlier, undone=None)


def unwrote(record: Record) -> Record:
    """The record after the last write was taken back."""
    last = record.earlier[-1] if record.earlier else None
    return replace(record, written=last, earlier=record.earlier[:-1], undone=record.written)


def finished(record: Record, *, status: str, exit_code: int) -> Record:
    """The record of a run that ended."""
    return replace(record, status=status, exit_code=exit_code)
