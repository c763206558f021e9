"""Reading and filling the writable parts of the container: list, read, mark, pack, apply.

Rows that cross the wire: `[root, path, kind, mode, size, target, mtime_ns]`, `root` an index into the request's `roots`,
`path` relative, kind one of file, link, dir, gone; to us, of a file with holes, its extents (`holes.py`) as an eighth; from us,
`[root, path, "closed"]` for a folder that cannot be looked into. Everything else (devices, sockets, FIFOs) does not exist here.
Links are never followed: they are text.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sandbox.guest.holes import Extents, extents
from sandbox.guest.walk import GONE, Baseline, differing, walk
from sandbox.wire import MAX_PAYLOAD

if TYPE_CHECKING:
    from sandbox.guest.serve import Guest
    from sandbox.guest.task import Task

CHUNK = 64 * 1024
ROWS = 500
CLOCK_REALTIME_COARSE = 5
"""What the kernel stamps files with."""


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
        left = about.st_size or int(request["max_bytes"])  # the kernel's own files (/proc, /sys) do not say how long they are
        while left > 0:
            chunk = os.read(fd, min(CHUNK, left))
            if not chunk:
                break
            left -= len(chunk)
            task.send(chunk)
        if not left and not about.st_size and os.read(fd, 1):
            raise OSError(27, "longer than asked for", request["path"])
    finally:
        os.close(fd)
    return {}


def mark(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """Remember how the roots look now: `pack` reports what differs. Of overlay drafts the lower layer does (`upper.py`)."""
    for root in request["roots"]:
        closed: set[str] = set()
        marks = dict(walk(task.guest.world.path(root), closed))
        task.guest.baselines[root] = Baseline(marks, closed)
        _wait_past(max((m[4] for m in marks.values()), default=0))
    return {}


def _wait_past(ctime_ns: int) -> None:
    """Until a change would carry a later time: before Linux 6.13 all changes of one tick (4 ms, or 10) carry the same."""
    for _ in range(20):
        if time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > ctime_ns:
            return
        time.sleep(0.001)


def pack(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """What changed since `mark`: rows out, wanted indexes in, hashes out; lacking indexes in, contents out, until none lacks.

    Some of the wanted need no hash (`unhashed`); of those it is said only which cannot be read.

    Every other process is stopped until the host has all, so no file is torn and nothing is swapped under the walk.
    """
    world = task.guest.world
    with task.guest.births:
        world.stop_all()
    try:
        found: list[str] = []
        rows: list[Any] = []
        for row in _rows(task.guest, request["roots"]):
            if row[2] != "closed":
                place = world.path(request["roots"][row[0]])
                found.append(os.path.join(place, row[1]) if row[1] else place)
            rows.append(row)
            if len(rows) >= ROWS:
                task.send_record(rows)
                rows = []
        if rows:
            task.send_record(rows)
        task.send_record([])
        asked = task.receive_record()
        unhashed = dict.fromkeys(asked.get("unhashed", ()))
        wanted = [i for i in asked["want"] if i not in unhashed]
        said = list(zip(wanted, _hashes([found[i] for i in wanted])))
        said += [(i, "") for i in unhashed if not _readable(found[i])]
        for at in range(0, len(said), ROWS):
            task.send_record(said[at : at + ROWS])
        task.send_record([])
        while lacking := task.receive_record()["want"]:
            for i in lacking:
                send_file(task, found[i], steady=True)
    finally:
        if not task.guest.stopped:
            world.go_all()
    return {}


def _rows(guest: Guest, roots: list[str]) -> Iterator[list[Any]]:
    """Of all roots: what changed, in the order of the walk, then the folders that cannot be looked into any more."""
    hidden: list[list[Any]] = []
    for index, root in enumerate(roots):
        closed: set[str] = set()
        layers = guest.overlays.get(root)
        before = guest.baselines.get(root, Baseline({}, set()))
        place = guest.world.path(root)
        changes = differing(place, before.marks, closed) if layers is None else layers.changes(closed)
        for path, now in changes:
            kind, mode, size, mtime_ns, _, _, target = now or GONE
            yield [index, path, kind, mode, size, target, mtime_ns]
        hidden += [[index, path, "closed"] for path in sorted(closed - before.closed)]
    yield from hidden


def open_file(path: str) -> int:
    """A regular file for reading, its last component never a link. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(22, "not a regular file", path)
    return fd


def _hashes(paths: list[str]) -> list[str]:
    """Of each file, by two threads: hashing leaves the interpreter to others, and the host waits meanwhile."""
    found = [""] * len(paths)
    numbers = iter(range(len(paths)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            found[number] = _readable_sha256(paths[number])

    second = None
    if len(paths) > 1:
        try:
            second = threading.Thread(target=work, daemon=True)
            second.start()
        except RuntimeError:  # the sandbox is at its process limit
            second = None
    work()
    if second is not None:
        second.join()
    return found


def _readable_sha256(path: str) -> str:
    """Hash of a file; empty when it may not be read (mode 0000): the host leaves it out."""
    try:
        fd = open_file(path)
    except OSError:
        return ""
    return _hash_and_close(fd)


def _readable(path: str) -> bool:
    try:
        os.close(open_file(path))
    except OSError:
        return False
    return True


def sha256(path: str) -> str:
    """Hash of a file. Raises OSError."""
    return _hash_and_close(open_file(path))


def _hash_and_close(fd: int) -> str:
    digest = hashlib.sha256()
    try:
        while True:
            chunk = os.read(fd, CHUNK)
            digest.update(chunk)
            if len(chunk) < CHUNK:  # a regular file: the end, or what the next look says of it
                chunk = os.read(fd, CHUNK)
                if not chunk:
                    return digest.hexdigest()
                digest.update(chunk)
    finally:
        os.close(fd)


def send_file(task: Task, path: str, *, steady: bool = False) -> None:
    """A record with the size, and with `data` where that is not everywhere; then the bytes, without the holes.

    `steady`: nothing can change it before the host has it.
    """
    fd = open_file(path)
    try:
        about = os.fstat(fd)
        where = extents(fd, about)
        head: dict[str, Any] = {"size": about.st_size}
        if where is not None:
            head["data"] = where
        task.send_record(head)
        for offset, length in [(0, about.st_size)] if where is None else where:
            os.lseek(fd, offset, os.SEEK_SET)
            task.send_content(fd, length, steady=steady)
    except OSError as error:
        error.filename = error.filename or path
        raise
    finally:
        os.close(fd)


def extents_of(row: list[Any]) -> Extents | None:
    """Of a row that has them."""
    return [(offset, length) for offset, length in row[7]] if len(row) > 7 and row[7] is not None else None


def receive_file(task: Task, fd: int, size: int, where: Extents | None = None) -> None:
    """A content from the host into the descriptor of an empty file."""
    for offset, length in [(0, size)] if where is None else where:
        if offset:
            os.lseek(fd, offset, os.SEEK_SET)
        left = length
        while left > 0:
            chunk = task.receive(min(MAX_PAYLOAD, left))
            left -= len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
    if where is not None:
        os.ftruncate(fd, size)


def apply(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """Rows with contents in, until an empty row: make the roots look like that. Not a transaction (see commit.py).

    Used on private drafts only, before anything else runs there. Folder modes come last, so that a read-only folder
    can be filled.
    """
    roots = [task.guest.world.path(str(r)) for r in request["roots"]]
    folders: list[tuple[str, int]] = []
    there: set[str] = set()
    while True:
        row = task.receive_record()
        if not row:
            break
        index, path, kind, mode = row[:4]
        place = os.path.join(roots[index], path) if path else roots[index]
        if kind == "dir":
            if not os.path.isdir(place) or os.path.islink(place):
                _clear(place, there)
            os.makedirs(place, exist_ok=True)
            there.add(place)
            folders.append((place, mode))
        elif kind == "gone":
            _clear(place, there)
        else:
            above = os.path.dirname(place)
            if above not in there:
                os.makedirs(above, exist_ok=True)
                there.add(above)
            try:
                _make(task, place, row)
            except FileExistsError:  # asked afterwards, as nothing is there nearly always
                _clear(place, there)
                _make(task, place, row)
    for place, mode in reversed(folders):
        if place not in roots:
            os.chmod(place, mode)
    return {}


def _clear(place: str, there: set[str]) -> None:
    """Nothing is there any more, nor below it."""
    if os.path.lexists(place):
        remove(place)
        there.clear()


def _make(task: Task, place: str, row: list[Any]) -> None:
    """One file or link where nothing is. Raises FileExistsError before any of its content was taken."""
    _, _, kind, mode, size, target, mtime_ns = row[:7]
    if kind == "link":
        os.symlink(target, place)
        return
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        receive_file(task, fd, size, extents_of(row))
        os.fchmod(fd, mode)
        if mtime_ns:
            os.utime(fd, ns=(mtime_ns, mtime_ns))
    except Exception:
        os.unlink(place)  # the host gave up: half a file is worse than none
        raise
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
