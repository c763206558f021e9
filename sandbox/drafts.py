"""Reading the host's own project, to fill a copy draft or to remember how it looked: never following a link.

The walk is relative to open folders, so a path that is swapped for a link while it is read leads nowhere. `.git` and
withheld paths are skipped where they stand: they are not sent and then removed, they never leave the host.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from sandbox.errors import SpecError
from sandbox.snapshot import is_git_name

CHUNK = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Found:
    """One file, folder or link of a project."""

    path: str
    """Relative; empty when the root itself is a file."""
    kind: Literal["file", "dir", "link"]
    mode: int
    size: int
    mtime_ns: int
    target: str = ""


def tree(root: Path, withhold: Collection[str] = (), *, max_files: int = 500_000) -> Iterator[Found]:
    """Everything of a context path that agents may see, parents before children.

    Raises SpecError beyond `max_files`. Unreadable folders are skipped, as they would be for the agent.
    """
    about = root.lstat()
    if not stat.S_ISDIR(about.st_mode):
        yield _found("", about, None)
        return
    hidden = {w.rstrip("/") for w in withhold}
    count = 0
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        pending = [""]
        while pending:
            for found, own in _folder(top, pending.pop(), about.st_dev):
                if found.path in hidden:
                    continue
                count += 1
                if count > max_files:
                    raise SpecError(f"{root} holds more than {max_files} files; name a smaller folder")
                yield found
                if found.kind == "dir" and own:
                    pending.append(found.path)
    finally:
        os.close(top)


def _folder(top: int, folder: str, device: int) -> list[tuple[Found, bool]]:
    """What one folder holds, and for each whether it lies on the root's own file system."""
    try:
        fd = open_below(top, folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    entries: list[tuple[Found, bool]] = []
    try:
        with os.scandir(fd) as listing:
            names = sorted(e.name for e in listing)
        for name in names:
            if is_git_name(name):
                continue
            try:
                about = os.stat(name, dir_fd=fd, follow_symlinks=False)
                target = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(about.st_mode) else None
            except OSError:
                continue  # it vanished
            if stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode) or target is not None:
                path = f"{folder}/{name}" if folder else name
                entries.append((_found(path, about, target), about.st_dev == device))
    finally:
        os.close(fd)
    return entries


def _found(path: str, about: os.stat_result, target: str | None) -> Found:
    kind: Literal["file", "dir", "link"] = "link" if target is not None else "dir" if stat.S_ISDIR(about.st_mode) else "file"
    size = about.st_size if kind == "file" else 0
    return Found(path=path, kind=kind, mode=about.st_mode & 0o777, size=size, mtime_ns=about.st_mtime_ns, target=target or "")


def open_below(top: int, path: str, flags: int) -> int:
    """Open `path` below an open folder, component by component, no link followed. Raises OSError. The caller closes."""
    parts = path.split("/") if path else ["."]
    fd = top
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            if fd != top:
                os.close(fd)
            fd = inner
        return os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    finally:
        if fd != top:
            os.close(fd)


def open_file(root: Path, path: str) -> int:
    """A regular file of a project for reading, no link followed below the root. Raises OSError. The caller closes."""
    with Files(root) as files:
        return files.open(path)[0]


class Files:
    """The regular files of a project, read one after the other: a folder stays open for those that lie beside each other."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = self._fd = -1
        self._folder = ""

    def open(self, path: str) -> tuple[int, os.stat_result]:
        """For reading, no link followed below the root. Raises OSError. The caller closes."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path.rpartition("/")[2], flags, dir_fd=self._beside(path)) if path else os.open(self._root, flags)
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            os.close(fd)
            raise OSError(22, "not a regular file", str(self._root / path))
        return fd, about

    def _beside(self, path: str) -> int:
        folder = path.rpartition("/")[0]
        if self._top < 0:
            self._top = self._fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if folder != self._folder:
            inner = open_below(self._top, folder, os.O_RDONLY | os.O_DIRECTORY) if folder else self._top
            self._leave()
            self._fd, self._folder = inner, folder
        return self._fd

    def _leave(self) -> None:
        if self._fd != self._top:
            os.close(self._fd)
        self._fd, self._folder = self._top, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()
        if self._top >= 0:
            os.close(self._top)
            self._top = self._fd = -1
