"""What the kernel counted for this container, read from its cgroup: version 2, or 1 with its folder per controller.

Descriptors stay open, because opening costs more than reading, and every command looks here. What cannot be read counts as
nothing: a file is missing in old kernels, and no ending is ever guessed from that.
"""

from __future__ import annotations

import os

ROOT = "/sys/fs/cgroup"
_PLACES = {
    "kills": ("memory.events", "memory/memory.oom_control"),
    "forks": ("pids.events", "pids/pids.events"),
    "memory": ("memory.current", "memory/memory.usage_in_bytes"),
    "pids": ("pids.current", "pids/pids.current"),
    "memory_limit": ("memory.max", "memory/memory.limit_in_bytes"),
    "pids_limit": ("pids.max", "pids/pids.max"),
}


class Cgroup:
    """The files of one container's cgroup, opened when they are first asked for."""

    def __init__(self, root: str = ROOT) -> None:
        self._root = root
        self._fds: dict[str, int] = {}

    def kills(self) -> int:
        """How often the kernel killed for memory."""
        return _value(self._text("kills"), b"oom_kill ")

    def refused_forks(self) -> int:
        """How often a process or thread was refused because of the limit on their number."""
        return _value(self._text("forks"), b"max ")

    def number(self, what: str) -> int:
        """memory, pids: in use now. memory_limit, pids_limit: what may be. 0 where there is none, or it cannot be read."""
        text = self._text(what).strip()
        return int(text) if text.isdigit() else 0

    def _text(self, what: str) -> bytes:
        fd = self._fds.get(what)
        if fd is None:
            fd = self._fds[what] = _opened(self._root, _PLACES[what])
        if fd < 0:
            return b""
        try:
            return os.pread(fd, 4096, 0)
        except OSError:
            return b""


def _opened(root: str, places: tuple[str, ...]) -> int:
    for place in places:
        try:
            return os.open(f"{root}/{place}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
    return -1


def _value(text: bytes, key: bytes) -> int:
    for line in text.splitlines():
        if line.startswith(key):
            number = line[len(key) :].strip()
            return int(number) if number.isdigit() else 0
    return 0


def full_places(table: str = "/proc/self/mountinfo") -> list[str]:
    """Writable mounts on which not one block, or not one file more, is left for us."""
    try:
        with open(table, "rb") as mounts:
            lines = mounts.read().splitlines()
    except OSError:
        return []
    full = []
    for line in lines:
        fields = line.split()
        if len(fields) < 6 or b"rw" not in fields[5].split(b","):
            continue
        place = fields[4].decode("utf-8", "surrogateescape")
        for code, mark in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            place = place.replace(code, mark)
        try:
            room = os.statvfs(place)
        except OSError:
            continue
        if not room.f_blocks or not os.access(place, os.W_OK):
            continue  # not a place for files, or not for ours
        if not room.f_bavail or (room.f_files and not room.f_favail):
            full.append(place)
    return full
