"""What a transaction left that was killed in its middle: finish it after its mark, take it back before.

Every step looks at what is there and can be done again, so recovery may be killed, too. The journal counts only when its hash is
the one that the host kept: the folder belongs to a project, where anybody may have written since. What somebody changed after
the kill is not touched: those paths are reported, and what belongs there stays in the stage folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any

from sandbox.guest.commit import Step
from sandbox.guest.files import ROWS, receive_file
from sandbox.guest.stage import JOURNAL, MARK, STAGE, Tick, clear, identity

if TYPE_CHECKING:
    from sandbox.guest.task import Task

MAX_JOURNAL_BYTES = 256 * 1024 * 1024


def recover(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    """Stage folders away, the project whole; then what each row's path holds, and the single files that the host sends.

    A root that is one file was overwritten in place, with nothing kept in the project: the host knows what belongs there.
    """
    world = task.guest.world
    roots = [world.path(str(r)) for r in request["roots"]]
    mounts = [world.path(str(m)) for m in request.get("mounts", [])]

    def tick(what: str) -> None:
        world.step(task.guest, what)

    torn, end = _settle(roots + mounts, STAGE + str(request["stage"]), str(request["journal"]), tick)
    steps: list[Step] = []
    while row := task.receive_record():
        steps.append(Step(len(steps), roots[row[0]], row))
    task.send_record({"end": end})
    rows = [[s.number, s.look()] for s in steps]
    for at in range(0, len(rows), ROWS):
        task.send_record(rows[at : at + ROWS])
    task.send_record([])
    while row := task.receive_record():
        _overwrite(task, Step(0, roots[row[0]], row), tick)
    return {"torn": torn[:100]}


def _settle(mounts: list[str], name: str, wanted: str, tick: Tick) -> tuple[list[str], str]:
    """Paths that could not be put back, and what was done: back, forward, or nothing."""
    folders = sorted({os.path.join(m, name) for m in mounts if _is_folder(os.path.join(m, name))})
    for folder in folders:
        content = _read(os.path.join(folder, JOURNAL))
        if not wanted or hashlib.sha256(content).hexdigest() != wanted:
            continue
        stages = [str(f) for f in json.loads(content)["stages"]]
        if os.path.lexists(os.path.join(folder, MARK)):
            clear(stages, placed=True, tick=tick)
            return [], "forward"
        torn = _back(json.loads(content), tick)
        if not torn:
            clear(stages, placed=False, tick=tick)
        return torn, "back"
    # No journal of ours: nothing had been touched yet, or everything was done and only the cleaning was left.
    clear(folders, placed=True, tick=tick)
    return [], ""


def _is_folder(path: str) -> bool:
    """A folder of our own, not a link."""
    try:
        about = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        return file.read() if stat.S_ISREG(about.st_mode) and about.st_size <= MAX_JOURNAL_BYTES else b""


def _back(journal: dict[str, Any], tick: Tick) -> list[str]:
    """Every path as it was, in the reverse order of the writing; returns those that somebody changed since."""
    torn: list[str] = []
    folders: list[Step] = []
    for _, root, path, *_ in journal["steps"]:  # those that may be read-only again, whatever they were before
        _open(os.path.join(journal["roots"][root], path) if path else "", tick)
    for number, root, path, kind, target, stage, before, known, made in reversed(journal["steps"]):
        if not path:
            continue
        step = Step(number, journal["roots"][root], [0, path, kind, 0, 0, target, 0])
        step.staged = os.path.join(stage, "new" + str(number))
        step.backup = os.path.join(stage, "old" + str(number))
        step.before, step.made = before, made
        if before["kind"] == "dir":
            folders.append(step)
        try:
            if not _step_back(step, known, tick):
                torn.append(step.place)
        except OSError:
            torn.append(step.place)
    for step in reversed(folders):
        try:
            tick("mode")
            if stat.S_ISDIR(os.lstat(step.place).st_mode):
                os.chmod(step.place, step.before["mode"] & 0o7777)
        except OSError:
            torn.append(step.place)
    return torn


def _open(path: str, tick: Tick) -> None:
    if path and _is_real_folder(path):
        tick("open")
        try:
            os.chmod(path, os.lstat(path).st_mode & 0o7777 | 0o700)
        except OSError:
            pass  # somebody else's by now: what lies in it will say so


def _step_back(step: Step, known: list[int] | None, tick: Tick) -> bool:
    """One path as it was; False when what is there is neither ours nor what was there. Raises OSError."""
    if step.look()["kind"] == "blocked":  # what was made below is gone, and what was in the way is back
        return not os.path.lexists(step.backup)
    was = step.before["kind"]
    if was in ("file", "link"):
        replaced = os.path.lexists(step.backup)
    else:
        replaced = not _is_real_folder(step.place) if was == "dir" else step.kind != "gone"
    if replaced and not _take_away(step, known, tick):
        return False
    if replaced and was in ("file", "link"):
        tick("back")
        os.rename(step.backup, step.place)
    elif replaced and was == "dir":
        tick("back")
        os.mkdir(step.place, 0o700)
    for folder in reversed(step.made):
        if _is_real_folder(folder):
            tick("unmake")
            os.rmdir(folder)
    return True


def _take_away(step: Step, known: list[int] | None, tick: Tick) -> bool:
    """What this transaction put there; True when nothing is left there, False for what is somebody else's."""
    try:
        about = os.lstat(step.place)
    except FileNotFoundError:
        return True
    if step.kind == "dir" and stat.S_ISDIR(about.st_mode):
        tick("unmake")
        os.rmdir(step.place)
        return True
    if step.kind == "link":
        ours = stat.S_ISLNK(about.st_mode) and os.readlink(step.place) == step.target
    else:
        ours = step.kind == "file" and identity(step.place) == known
    if ours:
        tick("unplace")
        os.unlink(step.place)
    return ours


def _is_real_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _overwrite(task: Task, step: Step, tick: Tick) -> None:
    """A single-file root as the host says; nothing to rename over, so it may be cut off, and is then done again."""
    tick("overwrite")
    fd = os.open(step.place, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
    try:
        receive_file(task, fd, step.size, step.extents)
        os.fchmod(fd, step.mode)
        os.fsync(fd)
    finally:
        os.close(fd)
