"""What a run needs only while it lives, and who removes it: the run itself, or, when it was killed, the next one.

A living run is told from a dead one by its process (pid, start time, boot), never by age: a run may take hours, and pids are
used again. Who buries a dead run, and who goes on with it, holds its lock meanwhile: one of them is told that it is too late.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from massgen.coordination import record as records
from massgen.errors import ConfigError
from sandbox import Store, owner, scratch

OWNER = "owner"
PEERS = "peers"
LOCK = "lock"


@contextlib.contextmanager
def changing_hands(folder: Path) -> Iterator[bool]:
    """Nobody else buries or takes over this run meanwhile; false: somebody else is at it. Freed with the process."""
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)


def living(folder: Path) -> bool:
    """The process of this run still goes on. What cannot be judged counts as living."""
    try:
        return owner.alive((folder / OWNER).read_text(encoding="ascii"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def new_run(state_dir: Path, *, run_id: str | None = None) -> Path:
    """A fresh run folder of this process, marked as such from its first moment. Blocks. Raises ConfigError: `run_id` exists."""
    return records.new_run(state_dir, run_id=run_id, holding={OWNER: owner.me()})


def claim(folder: Path) -> None:
    """The run in that folder lives in this process from now on."""
    scratch.write(folder / OWNER, owner.me().encode("ascii"))


def release(folder: Path) -> None:
    """The run is over: remove what only a living run needs. Never raises: what stays, the next run removes."""
    shutil.rmtree(folder / PEERS, ignore_errors=True)
    if not (folder / PEERS).exists():
        (folder / OWNER).unlink(missing_ok=True)


def sweep(state_dir: Path) -> tuple[str, ...]:
    """Clean up after runs that were killed; returns their ids. Blocks for the disk."""
    scratch.bury(state_dir / "runs", *Store.staging(state_dir / "store"))
    killed = []
    for mark in (state_dir / "runs").glob(f"*/{OWNER}"):
        if living(mark.parent):
            continue
        with contextlib.suppress(FileNotFoundError), changing_hands(mark.parent) as ours:
            if ours and mark.exists() and not living(mark.parent):  # else another start was faster, or it goes on
                _bury(mark.parent)
                killed.append(mark.parent.name)
    return tuple(killed)


def _bury(folder: Path) -> None:
    with contextlib.suppress(ConfigError, OSError):  # killed before it wrote one: nothing to say of it
        record = records.load(folder)
        if record.status == "running":
            records.save(folder, replace(record, status="killed"))
    scratch.bury(folder)
    if not (folder / records.FILE).exists():  # nothing had begun
        shutil.rmtree(folder, ignore_errors=True)
        return
    release(folder)
