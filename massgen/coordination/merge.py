"""A file that the user edited while agents changed it too: both edits, when they are apart; a conflict, when they are not.

Three versions meet: what the agents saw (kept when a snapshot first touched the file), what the user has now, what the agents
made of it. `git merge-file` joins them, in a sandbox of its own: all three are text that somebody else wrote. Whatever is not
text on both sides, or was removed on one, is a conflict: nobody guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio.to_thread

from massgen.coordination.rooms import Rooms
from sandbox import WORKSPACE, Entry, Sandbox, Snapshot, Store
from sandbox.base import Base, Key, Original, absolute

MAX_MERGED_BYTES = 4 * 1024**2
MERGE_S = 30.0
_SIDES = ("yours", "seen", "agents")
_PROGRAM = r"""
for place in "$@"; do
    cd "$place" || exit 2
    git merge-file --quiet -p yours seen agents >merged 2>/dev/null
    code=$?
    [ "$code" -eq 0 ] || rm -f merged
done
"""


@dataclass(frozen=True, kw_only=True)
class Met:
    """A snapshot as it can be written into the project of now."""

    snapshot: Snapshot
    """With merged contents where both sides changed a file."""
    expected: dict[Key, str]
    """What each touched path must still hold at the moment of writing."""
    merged: tuple[str, ...] = ()
    """Absolute paths that hold both edits."""
    conflicts: tuple[str, ...] = ()
    """Absolute paths that nobody could join; while there are any, nothing may be written."""


async def meet(snapshot: Snapshot, *, base: Base, rooms: Rooms, store: Store, agent: str) -> Met:
    """The snapshot against the project of now. Opens a sandbox only when there is something to merge. Raises: SandboxError."""
    now = await anyio.to_thread.run_sync(lambda: {_key(e): base.current(*_key(e)) for e in snapshot.entries})
    seen = {key: base.original(*key) for key in now}
    moved = [e for e in snapshot.entries if _moved(e, seen[_key(e)], now[_key(e)])]
    same = [e for e in moved if _holds_already(e, now[_key(e)])]
    joinable = [e for e in moved if e not in same and _joinable(e, seen[_key(e)], now[_key(e)])]
    joined = await _join([_Three(e, seen[_key(e)], now[_key(e)], store) for e in joinable], rooms, agent)
    conflicts = [e for e in moved if e not in same and _key(e) not in joined]
    kept = [joined.get(_key(e), e) for e in snapshot.entries if e not in conflicts]
    entries = [_with_mode(e, seen[_key(e)], now[_key(e)]) for e in kept]
    return Met(
        snapshot=replace(snapshot, entries=tuple(entries)),
        expected={_key(e): now[_key(e)].expected for e in entries},
        merged=tuple(absolute(*key) for key in joined),
        conflicts=tuple(absolute(*_key(e)) for e in conflicts),
    )


def moved_paths(snapshot: Snapshot, base: Base) -> tuple[str, ...]:
    """Absolute paths that the user changed since the agents saw them. Blocks."""
    pairs = [(e, base.original(*_key(e)), base.current(*_key(e))) for e in snapshot.entries]
    return tuple(absolute(*_key(e)) for e, seen, now in pairs if _moved(e, seen, now))


def _key(entry: Entry) -> Key:
    return entry.root, entry.path


def _moved(entry: Entry, seen: Original, now: Original) -> bool:
    """The user changed what the agents changed. A folder's own mode is nobody's edit."""
    if seen.drifted or now.kind == "other":
        return True
    if entry.kind == "dir" and now.kind == "dir":
        return False
    if entry.kind == "gone" and now.kind == "absent":
        return False
    return now.expected != seen.expected


def _holds_already(entry: Entry, now: Original) -> bool:
    """Both made the same edit."""
    if entry.kind == "link" and now.kind == "link":
        return now.target == entry.target
    return entry.kind == "file" and now.kind == "file" and now.sha256 == entry.sha256


def _joinable(entry: Entry, seen: Original, now: Original) -> bool:
    kinds = (entry.kind, seen.kind, now.kind)
    sizes = (entry.size, seen.size, now.size)
    return kinds == ("file", "file", "file") and not seen.drifted and max(sizes) <= MAX_MERGED_BYTES


def _with_mode(entry: Entry, seen: Original, now: Original) -> Entry:
    """A mode that only the user changed stays the user's."""
    if entry.kind == "file" and now.kind == "file" and entry.mode == seen.mode:
        return replace(entry, mode=now.mode)
    return entry


class _Three:
    """The versions of one file."""

    def __init__(self, entry: Entry, seen: Original, now: Original, store: Store) -> None:
        self.entry = entry
        self.store = store
        self.contents = (store.get(now.sha256), store.get(seen.sha256), store.get(entry.sha256))
        """In the order of `_SIDES`."""

    def rows(self, place: str) -> list[Entry]:
        """As files below a folder of the workspace."""
        rows = [Entry(root=WORKSPACE, path=place, kind="dir", mode=0o755)]
        for side, content in zip(_SIDES, self.contents, strict=True):
            path, blob = f"{place}/{side}", self.store.put(content)
            rows.append(Entry(root=WORKSPACE, path=path, kind="file", mode=0o644, size=len(content), sha256=blob))
        return rows


async def _join(files: Sequence[_Three], rooms: Rooms, agent: str) -> dict[Key, Entry]:
    """Entries with the joined content, by key; those that did not join are missing."""
    texts = [file for file in files if not any(map(_binary, file.contents))]
    if not texts:
        return {}
    rows = [row for number, file in enumerate(texts) for row in file.rows(str(number))]
    places = [f"{WORKSPACE}/{number}" for number in range(len(texts))]
    async with rooms.open("merge", agent) as box:
        await box.apply(Snapshot(entries=tuple(rows)), texts[0].store)
        await box.run(["sh", "-c", _PROGRAM, "merge", *places], cwd=WORKSPACE, timeout_s=MERGE_S)
        found = [await _merged(box, place) for place in places]
    joined: dict[Key, Entry] = {}
    for file, content in zip(texts, found, strict=True):
        if content is not None:
            joined[_key(file.entry)] = replace(file.entry, size=len(content), sha256=file.store.put(content))
    return joined


async def _merged(box: Sandbox, place: str) -> bytes | None:
    names = {change.path for change in await box.list(place)}
    return await box.read(f"{place}/merged", max_bytes=4 * MAX_MERGED_BYTES) if "merged" in names else None


def _binary(content: bytes) -> bool:
    return b"\0" in content[:8192]
