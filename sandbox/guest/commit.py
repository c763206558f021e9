"""The transaction of a lease: stage, show what is there, write all of it or nothing.

    host → rows with contents      staged beside the project, nothing visible changed
    guest → what each path holds   kind, mode, size, hash; the host decides whether that is what it expected
    host → which contents it lacks, guest → those bytes (the preimages, stored before anything is renamed)
    guest → hash of the journal    which the host keeps, so that no other file passes for it later
    host → go or abort             each path is checked once more just before its rename

Whoever is killed in the middle leaves the journal beside the staged files: what each path held, and which folders will be made.
A mark is added when everything is in its place. `recover.py` finishes after the mark, and takes everything back before it.

Staged files lie on the mount of their target, because rename(2) does not cross mounts, not even two of one file system. Folders
are writable for us while we work, their modes come last. Every path is looked at component by component without following
links. A root that is a single file is written in place: over a single-file mount there is no rename. Files of another owner
are refused: the lease speaks for one user. A file that replaces another takes over its group and its attributes, access lists
among them; what cannot be taken over stands against the write, as set-user-id bits do: they were not meant for other content.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any

from sandbox.guest import attributes
from sandbox.guest.files import CHUNK, ROWS, extents_of, receive_file, send_file, sha256
from sandbox.guest.stage import Stages, Tick, identity, sync

CARRIED = ("user.", "system.posix_acl_access")
"""Attributes that are their file's, whatever it holds. The kernel sets others anew, and takes security.capability away."""

if TYPE_CHECKING:
    from sandbox.guest.task import Task

State = dict[str, Any]


class Refused(Exception):
    """Something in the project stands against this write."""


class Step:
    """One path of the transaction."""

    def __init__(self, number: int, root: str, row: list[Any]) -> None:
        _, path, self.kind, self.mode, self.size, self.target, _ = row[:7]
        self.extents = extents_of(row)
        self.number = number
        self.root = root
        self.path = path
        self.place = os.path.join(root, path) if path else root
        self.staged = ""
        self.backup = ""
        self.before: State = {}
        self.made: list[str] = []
        self.done = False
        """Something of the project went aside for it."""
        self.placed = False

    def identity(self) -> list[int] | None:
        """How the staged file is told from any other, wherever it lies."""
        return identity(self.staged) if self.staged and self.path else None

    def look(self) -> State:
        """What the path holds now, through real folders only."""
        parent = self.root
        for part in self.path.split("/")[:-1] if self.path else []:
            parent = os.path.join(parent, part)
            try:
                about = os.lstat(parent)
            except FileNotFoundError:
                return {"kind": "none"}
            if not stat.S_ISDIR(about.st_mode):
                return {"kind": "blocked"}
        try:
            about = os.lstat(self.place)
        except FileNotFoundError:
            return {"kind": "none"}
        state: State = {"mode": about.st_mode & 0o7777, "size": about.st_size, "foreign": about.st_uid != os.geteuid()}
        if stat.S_ISDIR(about.st_mode):
            state["kind"] = "dir"
        elif stat.S_ISLNK(about.st_mode):
            state.update(kind="link", target=os.readlink(self.place))
        elif stat.S_ISREG(about.st_mode):
            state.update(kind="file", sha256=sha256(self.place))
        else:
            state["kind"] = "other"
        return state


def commit(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """See the module. The verdict's `refused` lists paths that changed at the last moment or could not be written."""
    world = task.guest.world
    roots = [world.path(str(r)) for r in request["roots"]]
    mounts = [world.path(str(m)) for m in request.get("mounts", [])]
    stages = Stages(roots + mounts, world.path("/tmp"), str(request["stage"]), lambda what: world.step(task.guest, what))
    steps: list[Step] = []
    written = False
    try:
        _receive(task, roots, stages, steps)
        for step in steps:
            step.before = step.look()
        rows = [[s.number, {**s.before, "lossy": lossy} if (lossy := _take_over(s)) else s.before] for s in steps]
        for at in range(0, len(rows), ROWS):
            task.send_record(rows[at : at + ROWS])
        task.send_record([])
        for number in task.receive_record()["want"]:
            send_file(task, steps[number].place)
        task.send_record({"journal": stages.write_journal(_journal(roots, steps, stages))})
        verdict = _write(steps, stages) if task.receive_record()["go"] else {"written": False}
        written = bool(verdict["written"])
    except Exception:
        stages.clear(placed=False)
        raise
    stages.clear(placed=written)
    return verdict


def _journal(roots: list[str], steps: list[Step], stages: Stages) -> bytes:
    """What recovery has to know: per step its stage, what it makes, what was there, and how the new file is recognised."""
    rows = []
    planned: set[str] = set()
    for step in _order(steps):
        made = [] if step.kind == "gone" or not step.path else _missing(step.place, planned)
        planned.update(made)
        if step.kind == "dir":
            planned.add(step.place)
        before = {key: step.before[key] for key in ("kind", "mode", "target") if key in step.before}
        rows.append(
            [
                step.number,
                roots.index(step.root),
                step.path,
                step.kind,
                step.target,
                stages.folder(step),
                before,
                step.identity(),
                made,
            ]
        )
    return json.dumps({"roots": roots, "stages": stages.folders(), "steps": rows}).encode("ascii")


def _missing(place: str, planned: set[str]) -> list[str]:
    """Folders above that no entry names and that are not there."""
    missing = []
    parent = os.path.dirname(place)
    while parent not in planned and not os.path.lexists(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    return missing[::-1]


def _receive(task: Task, roots: list[str], stages: Stages, steps: list[Step]) -> None:
    while True:
        row = task.receive_record()
        if not row:
            return
        step = Step(len(steps), roots[row[0]], row)
        steps.append(step)
        if step.kind != "file":
            continue
        step.staged = stages.place(step, "new")
        fd = os.open(step.staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            receive_file(task, fd, step.size, step.extents)
            os.fchmod(fd, step.mode)
            os.fsync(fd)
        finally:
            os.close(fd)


def _take_over(step: Step) -> str:
    """Give a staged file what the one that it replaces has besides content and mode; returns what would be lost."""
    was_file = step.before["kind"] == "file"
    if was_file and step.before["mode"] & 0o7000:
        return "set-user-id bits"
    if not step.staged or not step.path:
        return ""
    if not was_file:
        _inherit(step)
        return ""
    try:
        names = _attributes(step.place)
        if "security.capability" in names:
            return "capabilities"
        carried = [name for name in names if name.startswith(CARRIED)]
        group = os.lstat(step.place).st_gid
        if carried or os.lstat(step.staged).st_gid != group:
            os.chmod(step.staged, 0o600)  # who may not write a file may not give it attributes
            os.chown(step.staged, -1, group)
            for name in carried:
                attributes.put(step.staged, name, attributes.value(step.place, name))
            os.chmod(step.staged, step.mode)
            sync(step.staged)
    except OSError:
        return "its group or an attribute"
    return ""


def _inherit(step: Step) -> None:
    """A new file gets the group that one made in its place would get; where that may not be given, our own."""
    above = os.path.dirname(step.place)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    about = os.lstat(above)
    if about.st_mode & stat.S_ISGID and stat.S_ISDIR(about.st_mode):
        with contextlib.suppress(OSError):
            os.chown(step.staged, -1, about.st_gid)
            os.chmod(step.staged, step.mode)


def _attributes(place: str) -> list[str]:
    try:
        return attributes.names(place)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []  # a file system that has none
        raise


def _order(steps: list[Step]) -> list[Step]:
    order = sorted((s for s in steps if s.kind == "gone"), key=lambda s: s.path, reverse=True)
    order += sorted((s for s in steps if s.kind == "dir"), key=lambda s: s.path)
    return order + [s for s in steps if s.kind in ("file", "link")]


def _write(steps: list[Step], stages: Stages) -> dict[str, Any]:
    """All of it, or, after the first trouble, back to how it was."""
    order = _order(steps)
    current: Step | None = None
    try:
        for current in order:
            _open(current, stages.tick)
        for current in order:
            _one(current, stages)
        for current in reversed(order):
            if current.kind == "dir":
                stages.tick("mode")
                _mode(current.place, current.mode)
        for folder in sorted({os.path.dirname(s.place) for s in steps}):
            sync(folder)
        stages.mark()
    except Exception as error:  # noqa: BLE001 - whatever stopped us, the project goes back to how it was
        torn = _revert_all(order)
        if torn:
            stages.keep()
        path = current.place if current else ""
        return {"written": False, "refused": [path], "why": getattr(error, "strerror", None) or str(error), "torn": torn}
    return {"written": True}


def _open(step: Step, tick: Tick) -> None:
    """A read-only folder that this transaction names: writable until its end."""
    if step.before["kind"] == "dir" and step.path:
        tick("open")
        _mode(step.place, step.before["mode"] & 0o777 | 0o700)


def _mode(folder: str, mode: int) -> None:
    now = os.lstat(folder).st_mode
    if now & 0o777 != mode:
        os.chmod(folder, mode | now & 0o7000)  # set-group-id hands a group down: the user's, not the agent's


def _one(step: Step, stages: Stages) -> None:
    now = step.look()
    if _changed(step.before, now):
        raise Refused("it changed while it was being written")
    if not step.path:
        _in_place(step, now, stages.tick)
    elif now["kind"] == step.kind == "dir":
        return
    elif _make_way(step, now["kind"], stages) and step.kind != "gone":
        _put(step, stages.tick)


def _changed(before: State, now: State) -> bool:
    if before["kind"] == "blocked":
        return bool(now["kind"] != "none")  # what was in the way has just become a folder
    if now["kind"] == "dir":
        return bool(before["kind"] != "dir")  # its times and its size have changed by our own work
    return now != before


def _make_way(step: Step, kind: str, stages: Stages) -> bool:
    """What is there goes aside; False for a folder that has to stay. Raises OSError, Refused."""
    if kind == "dir":
        stages.tick("rmdir")
        try:
            os.rmdir(step.place)
        except OSError:
            if step.kind != "gone":
                raise
            _mode(step.place, step.before["mode"] & 0o777)
            return False  # it holds files that the agent was never shown
        step.done = True
    elif kind in ("file", "link"):
        backup = stages.place(step, "old")
        stages.tick("aside")
        os.rename(step.place, backup)
        step.backup = backup
        step.done = True
    elif kind != "none":
        raise Refused("something that is neither file, folder nor link is in the way")
    return True


def _put(step: Step, tick: Tick) -> None:
    for folder in _missing(step.place, set()):
        tick("parent")
        os.mkdir(folder, 0o755)
        step.made.append(folder)
    tick("place")
    if step.kind == "dir":
        os.mkdir(step.place, 0o700)
    elif step.kind == "link":
        os.symlink(step.target, step.place)
    else:
        os.rename(step.staged, step.place)
    step.placed = True


def _in_place(step: Step, now: State, tick: Tick) -> None:
    """A single-file mount: no rename is possible over it, so keep the old bytes aside and overwrite."""
    if step.kind != "file" or now["kind"] != "file":
        raise Refused("a write path that is one file can only be overwritten, not removed or replaced")
    _copy(step.place, step.staged + ".old")
    step.backup = step.staged + ".old"
    step.done = True
    tick("in place")
    _copy(step.staged, step.place, tick)
    tick("mode")
    os.chmod(step.place, step.mode)


def _copy(source: str, target: str, tick: Tick | None = None) -> None:
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            if tick:
                tick("overwrite")
            chunk = os.read(reader, CHUNK)
            if not chunk:
                break
            view = memoryview(chunk)
            while view:
                view = view[os.write(writer, view) :]
        os.fsync(writer)
    finally:
        os.close(reader)
        os.close(writer)


def _revert_all(order: list[Step]) -> list[str]:
    """Every path back as it was; returns those that could not be."""
    torn = []
    for step in reversed(order):
        try:
            _revert(step)
        except OSError:
            torn.append(step.place)
    for step in order:
        try:
            if step.before["kind"] == "dir" and step.path:
                _mode(step.place, step.before["mode"] & 0o777)
        except OSError:
            torn.append(step.place)
    return torn


def _revert(step: Step) -> None:
    """Put one path back as it was."""
    if step.done and not step.path:
        _copy(step.backup, step.place)
        os.chmod(step.place, step.before["mode"] & 0o777)
        return
    if step.placed:
        (os.rmdir if step.kind == "dir" else os.unlink)(step.place)
    for folder in reversed(step.made):
        os.rmdir(folder)
    if step.backup:
        os.rename(step.backup, step.place)
    elif step.done and step.before["kind"] == "dir":
        os.makedirs(step.place, 0o700, exist_ok=True)
