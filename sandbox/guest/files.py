"""Reading and filling the writable parts of the container: list, read, mark, pack, apply.

Rows that cross the wire: `[root, path, kind, mode, size, target, mtime_ns]`, `root` an index into the request's `roots`,
`path` relative, kind one of file, link, dir, gone. Everything else (devices, sockets, FIFOs) does not exist here.
Links are never followed: they are text.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.guest.task import Task

CHUNK = 64 * 1024
ROWS = 500

Mark = tuple[str, int, int, int, int, int, str]
"""kind, mode, size, mtime_ns, ctime_ns, inode, link target."""
Listing = dict[str, Mark]
GONE: Mark = ("gone", 0, 0, 0, 0, 0, "")


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
                marks = list(_marks(sorted(found, key=lambda e: e.name), top.st_dev))
        except OSError:
            if closed is not None:
                closed.add(folder)
            continue
        for name, mark in marks:
            path = folder + "/" + name if folder else name
            yield path, mark
            if mark[0] == "dir":
                pending.append(path)


def reach(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """The first of `paths` that no program here could read, and what is closed: the path itself, or a folder above it."""
    for path in request["paths"]:
        closed = _closed(task.guest.world.path(str(path)))
        if closed:
            return {"path": path, "closed": closed}
    return {}


def _closed(place: str) -> str:
    """The topmost name of a path that keeps us out; empty when none does, or nothing is there."""
    try:
        about = os.lstat(place)
    except PermissionError:
        above = os.path.dirname(place)
        return _closed(above) or above
    except OSError:
        return ""
    wanted = os.R_OK | os.X_OK if stat.S_ISDIR(about.st_mode) else os.R_OK
    return "" if os.access(place, wanted) else place


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


def list_folder(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """Rows of everything below `path`."""
    rows: list[Any] = []
    place = task.guest.world.path(str(request["path"]))
    os.lstat(place)
    for path, mark in walk(place):
        rows.append([0, path, mark[0], mark[1], mark[2], mark[6], mark[3]])
        if len(rows) >= ROWS:
            task.send_record(rows)
            rows = []
    if rows:
        task.send_record(rows)
    task.send_record([])
    return {}


def read(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """The bytes of one regular file, at most `max_bytes`; links are followed, as a program inside would."""
    fd = os.open(task.guest.world.path(str(request["path"])), os.O_RDONLY | os.O_NONBLOCK)
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(22, "not a regular file", request["path"])
        if about.st_size > int(request["max_bytes"]):
            raise OSError(27, f"{about.st_size} bytes, more than asked for", request["path"])
        left = about.st_size
        while left > 0:
            chunk = os.read(fd, min(CHUNK, left))
            if not chunk:
                break
            left -= len(chunk)
            task.send(chunk)
    finally:
        os.close(fd)
    return {}


def mark(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """Remember how the roots look now: `pack` reports what differs. Of overlay drafts the lower layer does (`upper.py`)."""
    for root in request["roots"]:
        task.guest.baselines[root] = dict(walk(task.guest.world.path(root)))
    return {}


def pack(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """What changed since `mark`: rows out, wanted indexes in, hashes out, lacking indexes in, contents out.

    Every other process is stopped meanwhile, so no file is torn and nothing is swapped under the walk.
    """
    world = task.guest.world
    with task.guest.births:
        world.stop_all()
    try:
        found: list[tuple[str, int]] = []
        rows: list[Any] = []
        for index, root in enumerate(request["roots"]):
            place = world.path(root)
            layers = task.guest.overlays.get(root)
            differing = _differing(place, task.guest.baselines.get(root, {})) if layers is None else layers.changes()
            changed: list[Any] = []
            for path, now in differing:
                kind, mode, size, mtime_ns, _, _, target = now or GONE
                changed.append([index, path, kind, mode, size, target, mtime_ns])
            for row in changed:
                found.append((os.path.join(place, row[1]) if row[1] else place, row[4]))
                rows.append(row)
                if len(rows) >= ROWS:
                    task.send_record(rows)
                    rows = []
        if rows:
            task.send_record(rows)
        task.send_record([])
        wanted = task.receive_record()["want"]
        hashes = [[i, _readable_sha256(found[i][0])] for i in wanted]
        for at in range(0, len(hashes), ROWS):
            task.send_record(hashes[at : at + ROWS])
        task.send_record([])
        for i in task.receive_record()["want"]:
            send_file(task, found[i][0])
    finally:
        if not task.guest.stopped:
            world.go_all()
    return {}


def _differing(place: str, before: Listing) -> Iterator[tuple[str, Mark | None]]:
    """What a walk finds changed since a listing; None for what is gone."""
    seen: set[str] = set()
    closed: set[str] = set()
    for path, now in walk(place, closed):
        seen.add(path)
        if path not in before or not _same(before[path], now):
            yield path, now
    for path in before:
        if path not in seen and not _hidden(path, closed):
            yield path, None


def open_file(path: str) -> int:
    """A regular file for reading, its last component never a link. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(22, "not a regular file", path)
    return fd


def _readable_sha256(path: str) -> str:
    """Hash of a file; empty when it may not be read (mode 0000): the host leaves it out."""
    try:
        fd = open_file(path)
    except OSError:
        return ""
    return _hash_and_close(fd)


def sha256(path: str) -> str:
    """Hash of a file. Raises OSError."""
    return _hash_and_close(open_file(path))


def _hash_and_close(fd: int) -> str:
    digest = hashlib.sha256()
    try:
        while True:
            chunk = os.read(fd, CHUNK)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)
    finally:
        os.close(fd)


def send_file(task: Task, path: str) -> None:
    """A record with the size, then the bytes."""
    fd = open_file(path)
    try:
        left = os.fstat(fd).st_size
        task.send_record({"size": left})
        while left > 0:
            chunk = os.read(fd, min(CHUNK, left))
            if not chunk:
                raise OSError(5, "the file shrank while it was read", path)
            left -= len(chunk)
            task.send(chunk)
    finally:
        os.close(fd)


def receive_file(task: Task, fd: int, size: int) -> None:
    """`size` raw bytes from the host into a descriptor."""
    left = size
    while left > 0:
        chunk = task.receive(min(CHUNK, left))
        left -= len(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(fd, view) :]


def apply(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """Rows with contents in, until an empty row: make the roots look like that. Not a transaction (see commit.py).

    Used on private drafts only, before anything else runs there. Folder modes come last, so that a read-only folder
    can be filled.
    """
    roots = [task.guest.world.path(str(r)) for r in request["roots"]]
    folders: list[tuple[str, int]] = []
    while True:
        row = task.receive_record()
        if not row:
            break
        index, path, kind, mode = row[:4]
        place = os.path.join(roots[index], path) if path else roots[index]
        if kind == "dir":
            if os.path.lexists(place) and not _is_folder(place):
                remove(place)
            os.makedirs(place, exist_ok=True)
            folders.append((place, mode))
            continue
        if os.path.lexists(place):
            remove(place)
        if kind != "gone":
            _make(task, place, row)
    for place, mode in reversed(folders):
        if place not in roots:
            os.chmod(place, mode)
    return {}


def _make(task: Task, place: str, row: list[Any]) -> None:
    """One file or link where nothing is."""
    _, _, kind, mode, size, target, mtime_ns = row
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if kind == "link":
        os.symlink(target, place)
        return
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        receive_file(task, fd, size)
        os.fchmod(fd, mode)
        if mtime_ns:
            os.utime(fd, ns=(mtime_ns, mtime_ns))
    finally:
        os.close(fd)


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def remove(path: str) -> None:
    """Remove a file, a link or a whole folder; a missing one is fine."""
    try:
        if not _is_folder(path):
            os.unlink(path)
            return
    except FileNotFoundError:
        return
    for base, folders, names in os.walk(path, topdown=False):
        for name in names:
            os.unlink(os.path.join(base, name))
        for name in folders:
            inner = os.path.join(base, name)
            if os.path.islink(inner):
                os.unlink(inner)
            else:
                os.rmdir(inner)
    os.rmdir(path)
