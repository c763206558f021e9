"""The write paths as a whole, by content, at two moments, and what makes one of them into the other.

For write mode `direct`, in which a container writes as it likes: what it did is the difference, and so is the way back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox import Entry, Snapshot, Store
from sandbox.base import Base, Key, Original, absolute
from sandbox.drafts import tree

Survey = Mapping[Key, Original]


@dataclass(frozen=True, kw_only=True)
class Written:
    """One finished write."""

    snapshot: Snapshot
    """What the project holds now, where it was touched."""
    undo: Snapshot
    files: tuple[str, ...]


def survey(roots: Iterable[Path], store: Store) -> Survey:
    """Every path of the roots with its content stored. Blocks."""
    base = Base.take(roots, store)
    return {(str(root), found.path): base.original(str(root), found.path) for root in base.roots for found in tree(root)}


def whole(found: Survey) -> Snapshot:
    """All of it, to be kept."""
    return _changes({}, found)


def surveyed(kept: Snapshot) -> Survey:
    """The inverse of `whole`; what was neither file, folder nor link is not in it."""
    return {(e.root, e.path): _original(e) for e in kept.entries}


def account(before: Survey, roots: Iterable[Path], store: Store) -> Written:
    """What was written since, both ways, stored. Blocks."""
    now = survey(roots, store)
    done, undo = _changes(before, now), _changes(now, before)
    store.put_snapshot(done)
    store.put_snapshot(undo)
    return Written(snapshot=done, undo=undo, files=tuple(absolute(e.root, e.path) for e in done.entries if e.kind != "dir"))


def _changes(before: Survey, now: Survey) -> Snapshot:
    """What makes `before` into `now`."""
    keys = sorted(before.keys() | now.keys())
    return Snapshot(
        entries=tuple(_entry(key, now.get(key)) for key in keys if _identity(before.get(key)) != _identity(now.get(key)))
    )


def _identity(original: Original | None) -> tuple[str, int, str, str] | None:
    if original is None or original.kind in ("absent", "other"):
        return None
    mode = 0 if original.kind == "link" else original.mode
    return original.kind, mode, original.sha256, original.target


def _entry(key: Key, now: Original | None) -> Entry:
    root, path = key
    match now:
        case Original(kind="file" | "dir" as kind):
            return Entry(root=root, path=path, kind=kind, mode=now.mode & 0o777, size=now.size, sha256=now.sha256)
        case Original(kind="link"):
            return Entry(root=root, path=path, kind="link", target=now.target)
        case _:
            return Entry(root=root, path=path, kind="gone")


def _original(entry: Entry) -> Original:
    if entry.kind == "gone":
        return Original(kind="absent")
    return Original(kind=entry.kind, mode=entry.mode, size=entry.size, sha256=entry.sha256, target=entry.target)
