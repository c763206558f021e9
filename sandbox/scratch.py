"""Temporary folders and half-written files that say in their very name whose they are.

Whoever is killed leaves them, and the next start must tell them from those of a process that lives. A mark inside was the
alternative: between making a folder and marking it there is a moment, and a kill in that moment leaves something that nobody may
ever remove.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sandbox import owner

HOME = Path("/var/tmp")
"""Where what a container mounts may lie: on a disk, and not in a folder that the engine may have another of."""
_NAME = re.compile(r"massgen-[a-z]+-(\d+)_(\d*)_([0-9a-f-]{36}|unknown)_(\d*)-[0-9a-f]{8}")


def name(what: str) -> str:
    """A fresh name with its owner in it. `what`: one word in small letters."""
    return f"massgen-{what}-{_label(os.getpid())}-{os.urandom(4).hex()}"


@cache
def _label(_pid: int) -> str:  # the parameter: a fork is somebody else
    return owner.me().replace(":", "_")


def hidden() -> str:
    """The same for a file that gets its own name when it is whole."""
    return "." + name("new")


@contextmanager
def folder(what: str, *, home: Path | None = None) -> Iterator[Path]:
    """A folder for a while, in the temporary folder or in `home`. What cannot be removed at the end stays for `bury`."""
    made = (home or Path(tempfile.gettempdir())) / name(what)
    made.mkdir(mode=0o700)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place, whole, when the block ends well."""
    staged = path.with_name(hidden())
    try:
        yield staged
        staged.rename(path)
    finally:
        staged.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """A whole file in the place of what was there, or that; through a power cut, too. Blocks. Raises OSError."""
    with replacing(path) as staged, staged.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def bury(*places: Path) -> None:
    """Remove what dead owners of our user left in the temporary folders and in these. Blocks; never raises."""
    for place in {HOME, Path(tempfile.gettempdir()), *places}:
        for dead in _dead(place):
            if dead.is_dir() and not dead.is_symlink():
                shutil.rmtree(dead, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    dead.unlink()


def _dead(place: Path) -> Iterable[Path]:
    try:
        found = [entry for entry in os.scandir(place) if _NAME.fullmatch(entry.name.removeprefix("."))]
    except OSError:
        return
    for entry in found:
        known = _NAME.fullmatch(entry.name.removeprefix("."))
        with contextlib.suppress(OSError):
            if known and entry.stat(follow_symlinks=False).st_uid == os.geteuid() and not owner.alive(":".join(known.groups())):
                yield Path(entry.path)
