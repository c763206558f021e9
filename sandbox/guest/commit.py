"""The transaction of a lease: stage, show what is there, write all of it or nothing.

    host → rows with contents      staged beside the project, nothing visible changed
    guest → what each path holds   kind, mode, size, hash; the host decides whether that is what it expected
    host → which contents it lacks, guest → those bytes (the preimages, stored before anything is renamed)
    host → go or abort             each path is checked once more just before its rename

Every path is opened component by component without following links. A root that is a single file is written in place: over
a single-file mount there is no rename. Files of another owner are refused: the lease speaks for one user.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, Any

from sandbox.guest.files import CHUNK, ROWS, receive_file, send_file

if TYPE_CHECKING:
    from sandbox.guest.task import Task

STAGE = ".massgen-lease-"
State = dict[str, Any]


class Refused(Exception):
    """Something in the project stands against this write."""


class Step:
    """One path of the transaction."""

    def __init__(self, number: int, root: str, row: list[Any]) -> None:
        _, path, self.kind, self.mode, self.size, self.target, _ = row
        self.number = number
        self.root = root
        self.path = path
        self.place = os.path.join(root, path) if path else root
        self.staged = ""
        self.backup = ""
        self.before: State = {}
        self.done = False

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
            state.update(kind="file", sha256=_sha256(self.place))
        else:
            state["kind"] = "other"
        return state


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        while True:
            chunk = os.read(fd, CHUNK)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)
    finally:
        os.close(fd)


def commit(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """See the module. The verdict's `refused` lists paths that changed at the last moment or could not be written."""
    roots = [task.guest.world.path(str(r)) for r in request["roots"]]
    stages: dict[str, str] = {}
    steps: list[Step] = []
    try:
        _receive(task, roots, str(request["token"]), stages, steps)
        for step in steps:
            step.before = step.look()
        rows = [[s.number, s.before] for s in steps]
        for at in range(0, len(rows), ROWS):
            task.send_record(rows[at : at + ROWS])
        task.send_record([])
        for number in task.receive_record()["want"]:
            send_file(task, steps[number].place)
        if not task.receive_record()["go"]:
            return {"written": False}
        return _write(steps, stages)
    finally:
        for stage in stages.values():
            _clear(stage)


def _receive(task: Task, roots: list[str], token: str, stages: dict[str, str], steps: list[Step]) -> None:
    while True:
        row = task.receive_record()
        if not row:
            return
        step = Step(len(steps), roots[row[0]], row)
        steps.append(step)
        if step.kind != "file":
            continue
        if step.path:
            stage = stages.get(step.root)
            if stage is None:
                stage = os.path.join(step.root, STAGE + token)
                os.mkdir(stage, 0o700)
                stages[step.root] = stage
        else:
            stage = stages.setdefault("", "/tmp/stage-" + token)
            os.makedirs(stage, 0o700, exist_ok=True)
        step.staged = os.path.join(stage, f"new{step.number}")
        fd = os.open(step.staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            receive_file(task, fd, step.size)
            os.fchmod(fd, step.mode)
            os.fsync(fd)
        finally:
            os.close(fd)


def _write(steps: list[Step], stages: dict[str, str]) -> dict[str, Any]:
    """All of it, or, after the first trouble, back to how it was."""
    order = sorted((s for s in steps if s.kind == "gone"), key=lambda s: s.path, reverse=True)
    order += sorted((s for s in steps if s.kind == "dir"), key=lambda s: s.path)
    order += [s for s in steps if s.kind in ("file", "link")]
    current: Step | None = None
    try:
        for current in order:
            _one(current, stages)
    except (OSError, Refused) as error:
        for step in reversed(order):
            _revert(step)
        path = current.place if current else ""
        return {"written": False, "refused": [path], "why": getattr(error, "strerror", None) or str(error)}
    for folder in sorted({os.path.dirname(s.place) for s in steps}):
        _sync(folder)
    return {"written": True}


def _one(step: Step, stages: dict[str, str]) -> None:
    now = step.look()
    if now != step.before and not (step.before["kind"] in ("dir", "blocked") or now["kind"] == "dir"):
        raise Refused("it changed while it was being written")
    if not step.path:
        _in_place(step, now)
    elif now["kind"] == "dir" and step.kind == "dir":
        os.chmod(step.place, step.mode)
        step.done = True
    elif now["kind"] == "dir" and step.kind == "gone":
        try:
            os.rmdir(step.place)
            step.done = True
        except OSError:
            pass  # it holds files that the agent was never shown
    else:
        _make_way(step, now["kind"], stages)
        _put(step)


def _make_way(step: Step, kind: str, stages: dict[str, str]) -> None:
    """Move what is there aside, where a failure later can bring it back."""
    if kind == "dir":
        os.rmdir(step.place)
        step.done = True
    elif kind in ("file", "link"):
        step.backup = os.path.join(_stage(step, stages), f"old{step.number}")
        os.rename(step.place, step.backup)
        step.done = True
    elif kind != "none":
        raise Refused("something that is neither file, folder nor link is in the way")


def _put(step: Step) -> None:
    """The new thing, where nothing is any more."""
    if step.kind == "gone":
        return
    os.makedirs(os.path.dirname(step.place), exist_ok=True)
    if step.kind == "dir":
        os.mkdir(step.place)
        os.chmod(step.place, step.mode)
    elif step.kind == "link":
        os.symlink(step.target, step.place)
    else:
        os.rename(step.staged, step.place)
    step.done = True


def _stage(step: Step, stages: dict[str, str]) -> str:
    stage = stages.get(step.root)
    if stage is None:
        stage = os.path.join(step.root, STAGE + os.urandom(8).hex())
        os.mkdir(stage, 0o700)
        stages[step.root] = stage
    return stage


def _in_place(step: Step, now: State) -> None:
    """A single-file mount: no rename is possible over it, so keep the old bytes aside and overwrite."""
    if step.kind != "file" or now["kind"] != "file":
        raise Refused("a write path that is one file can only be overwritten, not removed or replaced")
    step.backup = step.staged + ".old"
    _copy(step.place, step.backup)
    step.done = True
    _copy(step.staged, step.place)
    os.chmod(step.place, step.mode)


def _copy(source: str, target: str) -> None:
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        while True:
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


def _revert(step: Step) -> None:
    """Put one path back as it was."""
    if not step.done:
        return
    kind = step.before["kind"]
    if not step.path:
        _copy(step.backup, step.place)
        os.chmod(step.place, step.before["mode"] & 0o777)
        return
    if step.kind != "gone" and not (kind == "dir" and step.kind == "dir"):
        try:
            (os.rmdir if step.kind == "dir" else os.unlink)(step.place)
        except OSError:
            pass
    if step.backup:
        os.rename(step.backup, step.place)
    elif kind == "dir":
        os.makedirs(step.place, exist_ok=True)
        os.chmod(step.place, step.before["mode"] & 0o777)


def _clear(stage: str) -> None:
    try:
        for name in os.listdir(stage):
            os.unlink(os.path.join(stage, name))
        os.rmdir(stage)
    except OSError:
        pass


def _sync(folder: str) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
