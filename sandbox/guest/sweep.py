"""Remove a folder that anybody may have filled, on the host or in a container: no link followed, no depth too deep.

Folders are moved up to the top before they are emptied, so no path is ever longer than two names; the obvious recursion
ends at 1,000 levels, and a walk by paths at 4,096 bytes, both of which an agent reaches easily.
"""

from __future__ import annotations

import os
import stat


def sweep(top: str, last: str = "") -> None:
    """All that this user may remove, and the folder itself; `last` names the one file that goes only after all others.

    What cannot be removed stays, with `last` beside it. Never raises OSError.
    """
    try:
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    stuck = 0
    try:
        moves = f".moved-{os.urandom(8).hex()}-"
        number = 0
        pending = [name for name in os.listdir(fd) if name != last]
        while pending:
            name = pending.pop()
            moved, left = _empty(fd, name, moves, number)
            number += len(moved)
            pending += moved
            stuck += left
        if not stuck and last:
            stuck += not _unlinked(fd, last)
    except OSError:
        return
    finally:
        os.close(fd)
    if not stuck:
        try:
            os.rmdir(top)
        except OSError:
            return


def _empty(top: int, name: str, moves: str, number: int) -> tuple[list[str], int]:
    """Remove one name; of a folder, its files, while its folders move up. Returns what moved, and what is stuck."""
    about = os.stat(name, dir_fd=top, follow_symlinks=False)
    if not stat.S_ISDIR(about.st_mode):
        return [], int(not _unlinked(top, name))
    moved: list[str] = []
    try:
        fd = _opened(top, name)
    except OSError:
        return [], int(not _removed(top, name))
    try:
        for inner in os.listdir(fd):
            if _unlinked(fd, inner):
                continue
            target = f"{moves}{number + len(moved)}"
            try:
                if not stat.S_ISDIR(os.stat(inner, dir_fd=fd, follow_symlinks=False).st_mode):
                    continue
                os.chmod(inner, 0o700, dir_fd=fd)  # moving a folder writes its `..`
                os.rename(inner, target, src_dir_fd=fd, dst_dir_fd=top)
                moved.append(target)
            except OSError:
                continue
    except OSError:
        pass
    finally:
        os.close(fd)
    return moved, int(not _removed(top, name))


def _opened(top: int, name: str) -> int:
    """A folder, made writable. It is a folder and nobody else is here any more, so the name leads nowhere else."""
    os.chmod(name, 0o700, dir_fd=top)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)


def _unlinked(top: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=top)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _removed(top: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=top)
    except OSError:
        return False
    return True
