"""What changed in an overlay draft: a walk of its upper layer, checked against what the draft really shows.

The layer alone is no witness: its marks (whiteouts, opaque folders) are only reasons to look. A row says `gone` when the
lower view has the path and the draft has not; it says `file`, `link` or `dir` with what the draft shows. The cost is that
of the changes, not of the project. The mounts: `upper` is the layer, `lower` the project as the draft showed it at first.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from sandbox.guest import attributes
from sandbox.guest.walk import Mark, mark_of

if TYPE_CHECKING:
    from sandbox.guest.serve import Guest
    from sandbox.guest.task import Task

OPAQUE = "user.overlay.opaque"
ENODATA = 61
GIT = ".git"
LOOK_S = 0.5
REST = 20.0
"""A look at the layers may take a twentieth of the time."""


class Layers(NamedTuple):
    """Where the three views of one draft are."""

    upper: str
    lower: str
    merged: str

    def changes(self, closed: set[str]) -> Iterator[tuple[str, Mark | None]]:
        """Path and mark of everything that differs; None for what is gone. No path twice.

        Folders that cannot be looked into count as unchanged and are added to `closed`; a repository (`.git`) at the top or
        below is passed over.
        """
        told: set[str] = set()
        pending = [""]
        while pending:
            folder = pending.pop()
            names = _names(os.path.join(self.upper, folder))
            if names is None:
                closed.add(folder)
            for name in names or ():
                path = f"{folder}/{name}" if folder else name
                try:
                    for found, mark in _one(self, path):
                        if found not in told:
                            told.add(found)
                            yield found, mark
                except OSError:
                    closed.add(folder)
                    continue  # nor can anything below: it is named once, however long the paths of the views are
                if _is_folder(os.path.join(self.upper, path)):
                    pending.append(path)


def know(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """Learn which roots are overlay drafts, and how large their layers may grow."""
    guest = task.guest
    for root, upper, lower in request["overlays"]:
        guest.overlays[root] = Layers(str(upper), str(lower), guest.world.path(str(root)))
    threading.Thread(target=_watch, args=(guest, int(request["limit_bytes"])), daemon=True).start()
    return {}


def _watch(guest: Guest, limit_bytes: int) -> None:
    """End what runs while a layer is beyond its limit. Soft: what is written between two looks is there already."""
    wait_s = LOOK_S
    while not guest.over.wait(wait_s):
        began = time.monotonic()
        if any(used_bytes(layers.upper) > limit_bytes for layers in guest.overlays.values()):
            guest.disk_full = True
            guest.wake()
        wait_s = max(LOOK_S, REST * (time.monotonic() - began))


def _one(layers: Layers, path: str) -> Iterator[tuple[str, Mark | None]]:
    """Raises OSError where it cannot be looked at."""
    was, now = _look(layers.lower, path), _look(layers.merged, path)
    if now is None:
        if was is not None:
            yield from _gone(layers, path, was)
        return
    if now[0] != "dir" or was is None or was[:2] != now[:2]:
        yield path, now
    if was is None or was[0] != "dir":
        return
    if now[0] != "dir":
        yield from _below(layers, path)
    elif _opaque(os.path.join(layers.upper, path)):
        yield from _missing(layers, path)


def _gone(layers: Layers, path: str, was: Mark) -> Iterator[tuple[str, None]]:
    """A path of the lower view that the draft no longer shows, and all below it."""
    yield path, None
    if was[0] == "dir":
        yield from _below(layers, path)


def _below(layers: Layers, path: str) -> Iterator[tuple[str, None]]:
    pending = [path]
    while pending:
        folder = pending.pop()
        for name in _names(os.path.join(layers.lower, folder)) or ():
            inner = f"{folder}/{name}"
            try:
                was = _look(layers.lower, inner)
            except OSError:
                continue
            if was is not None:
                yield inner, None
                if was[0] == "dir":
                    pending.append(inner)


def _missing(layers: Layers, path: str) -> Iterator[tuple[str, None]]:
    """What the lower view has in a folder that was replaced, and the new one has not."""
    pending = [path]
    while pending:
        folder = pending.pop()
        for name in _names(os.path.join(layers.lower, folder)) or ():
            inner = f"{folder}/{name}"
            try:
                was, now = _look(layers.lower, inner), _look(layers.merged, inner)
            except OSError:
                continue
            if was is None:
                continue
            if now is None:
                yield from _gone(layers, inner, was)
            elif was[0] == "dir":
                if now[0] == "dir":
                    pending.append(inner)
                else:
                    yield from _below(layers, inner)


def _names(folder: str) -> list[str] | None:
    """None where they cannot be had."""
    try:
        return sorted(n for n in os.listdir(folder) if n != GIT)
    except FileNotFoundError:
        return []
    except OSError:
        return None


def _look(view: str, path: str) -> Mark | None:
    """What a view shows at a path; None for nothing, and for what no snapshot knows (a socket, a FIFO).

    Raises OSError where it cannot be seen: that is neither there nor gone.
    """
    place = os.path.join(view, path)
    try:
        mark = mark_of(place, os.lstat(place))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return mark if mark[0] else None


def _is_folder(place: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(place).st_mode)
    except OSError:
        return False


def _opaque(place: str) -> bool:
    """Whether the lower folder shows through. Unsure means no: it is then compared name by name, which is never wrong."""
    try:
        return attributes.value(place, OPAQUE) == b"y"
    except OSError as error:
        return error.errno != ENODATA


def used_bytes(folder: str) -> int:
    """Blocks that a layer takes on the disk; what cannot be looked at counts as nothing."""
    total = 0
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    about = entry.stat(follow_symlinks=False)
                    total += about.st_blocks * 512
                    if stat.S_ISDIR(about.st_mode):
                        pending.append(entry.path)
        except OSError:
            continue
    return total
