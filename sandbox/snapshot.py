"""What changed in a sandbox, by content: typed entries, checked by the host.

A snapshot is decoded from a container that may be hostile. So this module is the border: a path that leaves
its root, contains `.git` in any spelling, or is absurdly long never becomes an `Entry`; setuid, setgid and
sticky bits are dropped; devices, sockets and FIFOs do not exist here. Links are kept as links, as text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sandbox.errors import SnapshotError

Kind = Literal["file", "link", "dir", "gone"]

MAX_ENTRIES = 100_000
MAX_PATH_BYTES = 4096
MAX_TARGET_BYTES = 4096
MAX_NAMES = 64 * 1024 * 1024
"""Characters of all paths and targets; the host keeps them in memory, and a real tree has a hundredth of it."""
MAX_TOTAL_BYTES = 2 * 1024**3
"""Of all files, holes included: whoever reads or hashes a file reads its holes, too."""


@dataclass(frozen=True, kw_only=True, order=True)
class Entry:
    """One changed path below a root."""

    root: str
    """Absolute path of the root inside the sandbox (a write path, or `/workspace`)."""
    path: str
    """Relative to `root`, `/`-separated; undecodable bytes as lone surrogates. Empty: the root itself, a file."""
    kind: Kind
    mode: int = 0
    """Permission bits only (0o777)."""
    size: int = 0
    sha256: str = ""
    """Of the content, for files."""
    target: str = ""
    """Of a link."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A set of entries with an identity: equal content, equal id."""

    entries: tuple[Entry, ...]
    left_out: tuple[str, ...] = ()
    """Absolute paths inside that no snapshot carries (withheld names, what cannot be read, folders too deep), for the record."""

    @cached_property
    def id(self) -> str:
        """SHA-256 over the sorted entries."""
        return hashlib.sha256(self._lines.encode()).hexdigest()

    @property
    def _lines(self) -> str:
        return "".join(json.dumps(row) + "\n" for row in sorted(map(_row, self.entries)))

    def under(self, root: str) -> tuple[Entry, ...]:
        """The entries of one root."""
        return tuple(e for e in self.entries if e.root == root)

    def without(self, root: str) -> Snapshot:
        """The same snapshot less one root (`/workspace` never reaches a project)."""
        return Snapshot(entries=tuple(e for e in self.entries if e.root != root), left_out=self.left_out)

    def to_json(self) -> str:
        """One JSON line per entry, in order; after them one with what was left out, if something was."""
        left_out = json.dumps({"left_out": list(self.left_out)}) + "\n" if self.left_out else ""
        return self._lines + left_out

    @staticmethod
    def from_json(text: str) -> Snapshot:
        """The inverse of `to_json`. Raises SnapshotError on anything else."""
        try:
            rows = [json.loads(line) for line in text.splitlines()]
        except (ValueError, RecursionError) as error:
            raise SnapshotError(f"snapshot manifest is not JSON lines: {error}") from error
        left_out = _left_out(rows.pop()) if rows and isinstance(rows[-1], dict) else ()
        return Snapshot(entries=tuple(_entry(row) for row in rows), left_out=left_out)


def _row(e: Entry) -> list[str | int]:
    return [e.root, e.path, e.kind, e.mode, e.size, e.sha256, e.target]


def _entry(row: object) -> Entry:
    match row:
        case [str(root), str(path), "file" | "link" | "dir" | "gone" as kind, int(mode), int(size), str(sha), str(target)]:
            check_path(path)
            check_target(target)
            return Entry(root=root, path=path, kind=kind, mode=mode & 0o777, size=size, sha256=sha, target=target)
        case _:
            raise SnapshotError(f"snapshot manifest has an unknown row: {str(row)[:200]}")


def _left_out(row: object) -> tuple[str, ...]:
    match row:
        case {"left_out": [*paths], **rest} if not rest and 0 < len(paths) <= MAX_ENTRIES:
            if all(isinstance(path, str) and not _unusable(path, 2 * MAX_PATH_BYTES) for path in paths):
                return tuple(paths)
    raise SnapshotError(f"snapshot manifest has an unknown row: {str(row)[:200]}")


def check_tree(rows: Iterable[tuple[str, str, str]]) -> None:
    """Raises SnapshotError for (root, path, kind) that no folder can hold: a path twice, or something below a file or a link.

    Whoever lays a snapshot out may rely on it: a second file of one name would be written through the hard link to the first.
    """
    before: tuple[str, str] | None = None
    above: tuple[str, str] | None = None  # the file or link seen last; with this order, what is below it follows it at once
    for root, path, kind in sorted(rows, key=lambda row: (row[0], row[1].replace("/", "\0"))):
        if (root, path) == before:
            raise SnapshotError(f"a container sent one path twice: {path[:120]!r}")
        before = root, path
        if kind == "gone":
            continue
        if above and above[0] == root and (not above[1] or path.startswith(f"{above[1]}/")):
            raise SnapshotError(f"a container sent a path inside a file: {path[:120]!r}")
        if kind in ("file", "link"):
            above = root, path


def check_path(path: str, *, git: bool = False) -> str:
    """The same path, or SnapshotError: absolute, `..`, empty components, NUL, too long, or (unless `git`) `.git` anywhere."""
    if path == "":
        return path
    parts = path.split("/")
    if _unusable(path, MAX_PATH_BYTES) or any(p in ("", ".", "..") for p in parts):
        raise SnapshotError(f"a container sent an unusable path: {path[:120]!r}")
    if not git and any(is_git_name(p) for p in parts):
        raise SnapshotError(f"a container sent a path inside a git folder: {path[:120]!r}")
    return path


def check_target(target: str) -> None:
    """Raises SnapshotError for what no link can hold."""
    if _unusable(target, MAX_TARGET_BYTES):
        raise SnapshotError(f"a container sent an unusable link target: {target[:120]!r}")


_SHA = re.compile("[0-9a-f]{64}")


def is_sha(text: str) -> bool:
    """64 lower-case hex digits: the one spelling of a SHA-256 here."""
    return _SHA.fullmatch(text) is not None


def _unusable(text: str, limit_bytes: int) -> bool:
    try:
        return "\0" in text or len(text.encode("utf-8", "surrogateescape")) > limit_bytes
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return True


def is_git_name(component: str) -> bool:
    """True for `.git` in any spelling that a file system may fold onto it, wherever the snapshot is written one day.

    Case; code points that case-folding file systems ignore; NTFS: trailing dots and spaces, a stream's name after a colon, the
    8.3 name, a backslash as a separator. As git judges before it checks out, and somewhat stricter.
    """
    if not component.isascii():
        component = component.translate(_IGNORED)
    if "git" not in (folded := component.casefold()):
        return False
    return any(part.partition(":")[0].rstrip(". ") in (".git", "git~1") for part in folded.split("\\"))


_IGNORED = {
    point: None
    for first, last in (
        (0xAD, 0xAD),
        (0x34F, 0x34F),
        (0x61C, 0x61C),
        (0x115F, 0x1160),
        (0x17B4, 0x17B5),
        (0x180B, 0x180F),
        (0x200B, 0x200F),
        (0x202A, 0x202E),
        (0x2060, 0x206F),
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),
        (0xFEFF, 0xFEFF),
        (0xFFA0, 0xFFA0),
        (0xFFF0, 0xFFF8),
        (0x1BCA0, 0x1BCA3),
        (0x1D173, 0x1D17A),
        (0xE0000, 0xE0FFF),
    )
    for point in range(first, last + 1)
}
"""Unicode's Default_Ignorable_Code_Point, which ext4, f2fs (with case folding), HFS+ and APFS drop from names."""
