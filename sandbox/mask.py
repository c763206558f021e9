"""The layer that hides: laid over a project by an overlay mount, it takes withheld files out of the view.

A whiteout (a character device 0:0, which any user may make since Linux 5.8) hides one name; a folder of the mask is merged
with the project's own and shows the mask's mode and time, so both are copied. Masks by empty mounts, the obvious
alternative, leave the names, need a mount each, and cannot lie in a draft from which the agent deletes a folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sandbox import gitmask
from sandbox.errors import SpecError
from sandbox.spec import GitView
from sandbox.whiteout import whiteout


def build(mask: Path, source: Path, withhold: Iterable[str], git: GitView) -> GitView:
    """Fill the empty folder `mask` for a project; returns what is shown of its repository (less than asked: `hide`).

    Blocks; `fresh` reads every visible file. Raises OSError, SpecError for a withheld path that is not relative.
    """
    hidden = sorted(_with_targets(source, _checked(source, withhold)) - ({".git"} if git != "hide" else set()))
    shown = gitmask.show(mask, source, hidden, git)
    if shown == "hide":
        hidden.append(".git")
    for path in hidden:
        _hide(mask, source, path)
    _mirror(mask, source)
    return shown


def _checked(source: Path, withhold: Iterable[str]) -> set[str]:
    names = {w.rstrip("/") for w in withhold}
    for name in names:
        if not name or name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise SpecError(f"{name!r} is not a path below {source}; withheld paths are relative")
    return names


def _with_targets(source: Path, names: set[str]) -> set[str]:
    """A withheld link withholds what it names, too, when that lies in the project: the content is what must not be seen."""
    found = set(names)
    for name in names:
        place = source / name
        if place.is_symlink():
            try:
                found.add(str(place.resolve(strict=True).relative_to(source)))
            except (OSError, ValueError, RuntimeError):
                continue  # nothing is there, or it is not shown anyway
    return found - {"."}


def _hide(mask: Path, source: Path, path: str) -> None:
    """One whiteout, unless a folder above is hidden already, or is none."""
    at = source
    for part in PurePosixPath(path).parts[:-1]:
        at /= part
        place = mask / at.relative_to(source)
        if not _is_dir(at) or (os.path.lexists(place) and not _is_dir(place)):
            return
        place.mkdir(mode=0o700, exist_ok=True)
    whiteout(mask / path)


def _is_dir(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _mirror(mask: Path, source: Path) -> None:
    """Folders of the mask look like the project's own: deepest first, as a folder's time changes with what is in it."""
    folders = [Path(base) for base, _, _ in os.walk(mask)]
    for folder in sorted(folders, key=lambda f: len(f.parts), reverse=True):
        mirror(folder, source / folder.relative_to(mask))


def mirror(folder: Path, original: Path) -> None:
    """Owner (as far as we may), mode and times of the original; nothing where the original is no folder."""
    try:
        about = original.lstat()
    except OSError:
        return
    if not stat.S_ISDIR(about.st_mode):
        return
    if os.geteuid() == 0:
        os.chown(folder, about.st_uid, about.st_gid)
    folder.chmod(stat.S_IMODE(about.st_mode))
    os.utime(folder, ns=(about.st_atime_ns, about.st_mtime_ns))
