"""One writer at a time in a folder of the user's, whichever run, process or command it belongs to.

Two writes at once would each be all or nothing, and together neither: one would find files half replaced by the other, and its
drift check could pass between two of the other's renames. The locks lie in the state folder, one for each write path; who writes
in a folder also holds those above it, shared, so that nobody replaces the whole of it meanwhile. The kernel frees them with the
process that held them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio

from massgen.errors import ApplyConflict

LOCKS = "locks"
"""Beside the store, in the state folder."""
WAIT_S = 60.0
"""Longer than any write takes; beyond it something hangs, and the user should hear of it."""
AGAIN_S = 0.05


@asynccontextmanager
async def one_writer(folder: Path, roots: Iterable[Path], *, wait_s: float = WAIT_S) -> AsyncIterator[None]:
    """Nobody else writes in these paths meanwhile. Raises ApplyConflict when somebody still does after `wait_s`."""
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    wanted = {above: fcntl.LOCK_SH for root in roots for above in root.parents}
    wanted |= dict.fromkeys(roots, fcntl.LOCK_EX)
    with ExitStack() as held:
        # In one order for everybody: whoever waits holds nothing that the other one waits for.
        for path, kind in sorted(wanted.items()):
            with anyio.move_on_after(wait_s) as patience:
                await _lock(held, folder / hashlib.sha256(os.fsencode(path)).hexdigest()[:32], kind)
            if patience.cancelled_caught:
                raise ApplyConflict(
                    f"nothing was written: another run has been writing in {path} for {wait_s:.0f} s; try again later"
                )
        yield


async def _lock(held: ExitStack, place: Path, kind: int) -> None:
    fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    held.callback(os.close, fd)
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            await anyio.sleep(AGAIN_S)
        else:
            return
