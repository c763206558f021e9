"""The project as it was when the run began: what diffs compare with, and what an apply must still find.

At the start the write paths are listed (kind, size, mtime, mode), not read. When a snapshot first touches a
path, the project's own version is read and stored, after a check that it still is the one that was listed. So
neither diff, nor apply, nor undo needs a copy of the project, and a file that the user edited meanwhile is known
as *drifted* however the edit came about.

The host may read here because no container can write to the project before the lease; it still walks
component by component without following links, as the project may hold links to anywhere.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sandbox.drafts import Found, open_below, open_file, tree
from sandbox.snapshot import Entry, Snapshot
from sandbox.store import Store

MAX_FILE_BYTES = 2 * 1024**3
_CHUNK = 1024 * 1024
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)

Key = tuple[str, str]
"""(root, path), as in `Entry`."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """The project's own version of one path."""

    kind: Literal["absent", "file", "link", "dir", "other"]
    """other: a device, a socket, or something that may not be read; never written over."""
    mode: int = 0
    size: int = 0
    sha256: str = ""
    target: str = ""
    drifted: bool = False
    """It changed between the listing and now: the agents did not see this version."""

    @property
    def expected(self) -> str:
        """What the path must hold at the moment of writing, in the words of `Sandbox.commit`."""
        match self.kind:
            case "absent":
                return ""
            case "file":
                return self.sha256
            case "link":
                return f"link:{self.target}"
            case "dir":
                return "dir"
            case "other":
                return "other"


class Base:
    """The listing of some write roots, and the originals touched so far."""

    def __init__(
        self, roots: Iterable[Path], store: Store, listing: Mapping[Key, Found], originals: Mapping[Key, Original] | None = None
    ) -> None:
        self.roots = tuple(roots)
        self._names = frozenset(map(str, self.roots))
        self._store = store
        self._listing = dict(listing)
        self._originals = dict(originals or {})

    @staticmethod
    def take(roots: Iterable[Path], store: Store) -> Base:
        """List the roots (absolute, resolved folders or files). Blocks: call it in a worker thread."""
        roots = tuple(roots)
        return Base(roots, store, {(str(root), found.path): found for root in roots for found in tree(root)})

    def count(self) -> int:
        """Files that the roots hold now. Blocks."""
        return sum(found.kind != "dir" for root in self.roots if root.exists() for found in tree(root))

    def original(self, root: str, path: str) -> Original:
        """The project's version of one path; on the first call it is read and stored. Blocks."""
        key = (root, path)
        if root not in self._names:
            # /workspace: empty before the agent came, and no path of the host, whatever the host has by that name.
            return Original(kind="absent")
        if key not in self._originals:
            self._originals[key] = self._read(root, path)
        return self._originals[key]

    def remember(self, originals: Mapping[Key, Original]) -> None:
        """Take versions that were read before somebody wrote; those known already stay."""
        self._originals = {**originals, **self._originals}

    def project(self, snapshot: Snapshot) -> Snapshot:
        """The part of a snapshot that lies in the write roots (`/workspace` never reaches a project)."""
        return Snapshot(entries=tuple(e for e in snapshot.entries if e.root in self._names), left_out=snapshot.left_out)

    def expected(self, snapshot: Snapshot) -> dict[Key, str]:
        """For every path that a snapshot changes: what must be there now."""
        return {(e.root, e.path): self.original(e.root, e.path).expected for e in self.project(snapshot).entries}

    def drifted(self, snapshot: Snapshot) -> tuple[str, ...]:
        """Absolute paths of a snapshot that changed under the run, or cannot be written over."""
        touched = [(e, self.original(e.root, e.path)) for e in self.project(snapshot).entries]
        return tuple(absolute(e.root, e.path) for e, original in touched if original.drifted or original.kind == "other")

    def current(self, root: str, path: str) -> Original:
        """What the project holds at this moment, its content stored. Blocks."""
        try:
            return _read_no_follow(Path(root), path, self._store)[0]
        except PermissionError:
            return Original(kind="other")
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return Original(kind="absent")

    def originals_json(self, snapshot: Snapshot | None = None) -> list[dict[str, Any]]:
        """The touched originals, of one snapshot or all, to be kept outside this process."""
        keys = sorted(self._originals) if snapshot is None else sorted({(e.root, e.path) for e in snapshot.entries})
        found = [(key, self._originals[key]) for key in keys if key in self._originals]
        return [{"root": root, "path": path, **vars(original)} for (root, path), original in found]

    def listing_json(self) -> bytes:
        """What the roots held when they were listed, to be compared with another time."""
        rows = [[root, f.path, f.kind, f.mode, f.size, f.mtime_ns, f.target] for (root, _), f in self._listing.items()]
        return json.dumps(rows).encode("ascii")

    def changed_since(self, listing: bytes) -> tuple[str, ...]:
        """Absolute paths of files and links that this listing has otherwise than an earlier one (`listing_json`), sorted."""
        then = {(row[0], row[1]): tuple(row[2:]) for row in json.loads(listing)}
        now = {key: (f.kind, f.mode, f.size, f.mtime_ns, f.target) for key, f in self._listing.items()}
        changed = {key for key in then.keys() | now.keys() if then.get(key) != now.get(key)}
        files = {key for key in changed if (now.get(key) or then[key])[0] != "dir"}
        return tuple(sorted(absolute(*key) for key in files))

    @staticmethod
    def from_json(roots: Iterable[Path], store: Store, rows: Iterable[Mapping[str, Any]]) -> Base:
        """A base of touched originals only: enough to diff, apply and undo what was snapshotted then."""
        return Base(roots, store, {}, originals_from(rows))

    def changes(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot less what only looks changed: files written with the bytes they had, things made and removed. Blocks."""
        kept = tuple(e for e in snapshot.entries if not _same(e, self.original(e.root, e.path)))
        return Snapshot(entries=kept, left_out=snapshot.left_out)

    def _read(self, root: str, path: str) -> Original:
        listed = self._listing.get((root, path))
        try:
            original, mtime_ns = _read_no_follow(Path(root), path, self._store)
        except PermissionError:
            return Original(kind="other")
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return Original(kind="absent", drifted=listed is not None)
        if original.kind == "other":
            return original
        return replace(original, drifted=listed is None or not _unchanged(listed, original, mtime_ns))


def originals_from(rows: Iterable[Mapping[str, Any]]) -> dict[Key, Original]:
    """The inverse of `originals_json`; of several versions of one path the first counts."""
    found: dict[Key, Original] = {}
    for row in rows:
        values = {key: value for key, value in row.items() if key not in ("root", "path")}
        found.setdefault((row["root"], row["path"]), Original(**values))
    return found


def originals_of(undo: Snapshot) -> dict[Key, Original]:
    """What the paths of an undo held before the write that it takes back."""
    return {(e.root, e.path): _before(e) for e in undo.entries}


def _before(entry: Entry) -> Original:
    if entry.kind == "gone":
        return Original(kind="absent")
    return Original(kind=entry.kind, mode=entry.mode, size=entry.size, sha256=entry.sha256, target=entry.target)


def after(snapshot: Snapshot) -> dict[Key, str]:
    """What each path of a snapshot holds once it is written: what an undo must still find."""
    return {(e.root, e.path): _holds(e) for e in snapshot.entries}


def absolute(root: str, path: str) -> str:
    """The path as the user knows it."""
    return f"{root}/{path}" if path else root


def _holds(entry: Entry) -> str:
    match entry.kind:
        case "file":
            return entry.sha256
        case "link":
            return f"link:{entry.target}"
        case "dir":
            return "dir"
        case "gone":
            return ""


def _same(entry: Entry, original: Original) -> bool:
    match entry.kind:
        case "gone":
            return original.kind == "absent"
        case "link":
            return original.kind == "link" and original.target == entry.target
        case "dir":
            return original.kind == "dir" and original.mode == entry.mode
        case "file":
            return original.kind == "file" and (original.sha256, original.mode) == (entry.sha256, entry.mode)


def _unchanged(listed: Found, now: Original, mtime_ns: int) -> bool:
    match listed.kind:
        case "dir":
            return now.kind == "dir"
        case "link":
            return now.kind == "link" and now.target == listed.target
        case "file":
            return now.kind == "file" and (now.size, mtime_ns) == (listed.size, listed.mtime_ns)


def _read_no_follow(root: Path, path: str, store: Store) -> tuple[Original, int]:
    """The version of now, its content stored, and its mtime."""
    if not path:
        about, target = root.lstat(), ""
    else:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            about, target = _stat_below(top, path)
        finally:
            os.close(top)
    mode = about.st_mode & 0o777
    if stat.S_ISDIR(about.st_mode):
        return Original(kind="dir", mode=mode), about.st_mtime_ns
    if stat.S_ISLNK(about.st_mode):
        return Original(kind="link", mode=mode, target=target), about.st_mtime_ns
    if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_FILE_BYTES:
        return Original(kind="other", mode=mode), about.st_mtime_ns
    fd = open_file(root, path)
    size = 0
    with os.fdopen(fd, "rb") as file, store.writer() as writer:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            writer.write(chunk)
        about = os.fstat(fd)
    return Original(kind="file", mode=about.st_mode & 0o777, size=size, sha256=writer.sha256), about.st_mtime_ns


def _stat_below(top: int, path: str) -> tuple[os.stat_result, str]:
    folder, _, name = path.rpartition("/")
    fd = open_below(top, folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        about = os.stat(name, dir_fd=fd, follow_symlinks=False)
        return about, os.readlink(name, dir_fd=fd) if stat.S_ISLNK(about.st_mode) else ""
    finally:
        os.close(fd)
