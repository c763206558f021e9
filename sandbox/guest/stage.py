"""Where a transaction's files wait: one folder per mount, with the journal and the mark that recovery goes by.

`rename(2)` does not cross mounts, so what is about to be placed, and what was there before, must lie on the mount of its target.
Staging in the container's own memory and copying into place was the alternative: no copy is all or nothing.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from sandbox.guest.commit import Step

STAGE = ".massgen-lease-"
JOURNAL, MARK = "journal", "placed"
Tick = Callable[[str], None]
"""Told of every change before it is made; where nothing is isolated, tests end the guest there."""


class Stages:
    """One folder per mount for what is about to be renamed, and for what was there before."""

    def __init__(self, mounts: list[str], memory: str, name: str, tick: Tick) -> None:
        """`memory`: the container's own, for what replaces no file but a mounted one's content."""
        self._memory = memory
        self._mounts = sorted(set(mounts), key=len, reverse=True)
        self._name = name
        self._folders: dict[str, str] = {}
        self.tick = tick

    def folder(self, step: Step) -> str:
        """Where this step's files wait; made when missing. Raises OSError."""
        mount = self._memory
        if step.path:
            mount = next((m for m in self._mounts if step.place.startswith(m.rstrip("/") + "/")), step.root)
        folder = self._folders.get(mount)
        if folder is None:
            folder = os.path.join(mount, STAGE + self._name)
            self.tick("stage")
            os.mkdir(folder, 0o700)
            self._folders[mount] = folder
        return folder

    def place(self, step: Step, name: str) -> str:
        """Where a file of this step can wait. Raises OSError."""
        return os.path.join(self.folder(step), name + str(step.number))

    def folders(self) -> list[str]:
        """Those that were made; the first holds the journal, and it is in the project if any is."""
        return sorted(self._folders.values(), key=lambda f: (os.path.dirname(f) == self._memory, f))

    def write_journal(self, content: bytes) -> str:
        """Onto the disk, before anything of the project changes; returns its hash."""
        if self._folders:
            self.tick("journal")
            durable(os.path.join(self.folders()[0], JOURNAL), content)
        return hashlib.sha256(content).hexdigest()

    def mark(self) -> None:
        """Everything is in its place: from here on there is no way back."""
        if self._folders:
            self.tick("mark")
            path = os.path.join(self.folders()[0], MARK)
            try:
                durable(path, b"")
            except OSError:
                _unlink(path)  # all goes back now, and no recovery may take it for done
                raise

    def keep(self) -> None:
        """What could not be put back stays where a person can find it."""
        self._folders = {}

    def clear(self, *, placed: bool) -> None:
        """Remove them, so that at every moment the journal, if it is still there, says what is to be done."""
        clear(self.folders(), placed=placed, tick=self.tick)


def clear(folders: list[str], *, placed: bool, tick: Tick) -> None:
    """After the mark: journal and mark last, in this order. Before it: the journal first, when all is as it was."""
    first = [] if placed else [JOURNAL]
    last = [JOURNAL, MARK] if placed else [MARK]
    for folder in reversed(folders):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in [*first, *(n for n in sorted(names) if n not in (JOURNAL, MARK)), *last]:
            tick("clear")
            _unlink(os.path.join(folder, name))
        tick("clear")
        try:
            os.rmdir(folder)
        except OSError:
            pass


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def durable(path: str, content: bytes) -> None:
    """A new file that is there after a power cut, too. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    sync(os.path.dirname(path))


def identity(path: str) -> list[int]:
    """Inode, size and mtime: the same after a rename, not after an edit. Raises OSError."""
    about = os.lstat(path)
    return [about.st_ino, about.st_size, about.st_mtime_ns]


def sync(folder: str) -> None:
    """Its names (or what else is known of it) onto the disk, where that can be asked for."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
