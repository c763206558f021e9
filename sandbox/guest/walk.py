"""How a tree looks, and what differs from how it looked: by kind, mode, size, times, inode and link target, never by content.

Times and inodes miss nothing that a program inside can do: it can set mtime, but not ctime. What cannot be looked into is told,
and its content counts as unchanged: not seen is not gone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

Mark = tuple[str, int, int, int, int, int, str]
"""kind, mode, size, mtime_ns, ctime_ns, inode, link target."""
Listing = dict[str, Mark]
NAME = attrgetter("name")
GONE: Mark = ("gone", 0, 0, 0, 0, 0, "")


class Baseline(NamedTuple):
    """How a root looked when its sandbox opened."""

    marks: Listing
    closed: set[str]
    """Folders that could not be listed even then."""


def walk(root: str, closed: set[str] | None = None) -> Iterator[tuple[str, Mark]]:
    """Everything below a root in the order parents before children, without leaving its file system.

    A root that is a file is one entry with the empty path; one that is missing has none. Folders that cannot be listed or
    searched count as empty and are added to `closed`; what vanishes meanwhile is left out.
    """
    try:
        top = os.lstat(root)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(top.st_mode):
        mark = mark_of(root, top)
        if mark[0]:
            yield "", mark
        return
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as found:
                marks = list(_marks(sorted(found, key=NAME), top.st_dev))
        except OSError:
            if closed is not None:
                closed.add(folder)
            continue
        for name, mark in marks:
            path = folder + "/" + name if folder else name
            yield path, mark
            if mark[0] == "dir":
                pending.append(path)


def _marks(entries: list[os.DirEntry[str]], device: int) -> Iterator[tuple[str, Mark]]:
    for entry in entries:
        try:
            about = entry.stat(follow_symlinks=False)
            mark = mark_of(entry.path, about)
        except FileNotFoundError:
            continue  # it vanished; any other trouble means that the folder cannot be searched
        if mark[0] and about.st_dev == device:  # else something mounted here: not ours to report
            yield entry.name, mark


def mark_of(path: str, about: os.stat_result) -> Mark:
    """What is remembered of a path; an empty kind for what no snapshot knows. Raises OSError for a link that vanished."""
    mode = about.st_mode
    kind, size, target = "", 0, ""
    if stat.S_ISREG(mode):
        kind, size = "file", about.st_size
    elif stat.S_ISDIR(mode):
        kind = "dir"
    elif stat.S_ISLNK(mode):
        kind, target = "link", os.readlink(path)
    return (kind, mode & 0o777, size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, target)


def _same(old: Mark, new: Mark) -> bool:
    if new[0] == "dir":
        return old[:2] == new[:2]  # times of a folder say only that something in it changed
    return old == new


def _hidden(path: str, closed: set[str]) -> bool:
    """Below a folder that could not be listed: not seen is not gone."""
    while closed and path:
        path = path.rpartition("/")[0]
        if path in closed:
            return True
    return False


def differing(place: str, before: Listing, closed: set[str]) -> Iterator[tuple[str, Mark | None]]:
    """What a walk finds changed since a listing; None for what is gone."""
    seen: set[str] = set()
    for path, now in walk(place, closed):
        seen.add(path)
        was = before.get(path)
        if was is None or (was != now and not _same(was, now)):
            yield path, now
    if not before.keys() <= seen:
        for path in before:
            if path not in seen and not _hidden(path, closed):
                yield path, None
