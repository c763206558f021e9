"""What every start does before it touches a project: remove what dead ones left, and end what they were writing.

    containers, volumes → layers, temporary files → writes that were killed → what only living runs need

In this order: a container of a dead owner may be writing still, and layers are busy while it lives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from massgen.coordination import tidy
from massgen.coordination.recovery import recover
from sandbox import Engine
from sandbox.views import bury


@dataclass(frozen=True, kw_only=True)
class Found:
    """What there was."""

    containers: tuple[str, ...]
    ended: tuple[str, ...]
    """A sentence on each write that was killed, for the user."""
    killed: tuple[str, ...]
    """Runs that died and are said to be dead for the first time."""


async def clean_start(state_dir: Path, *, engine: Engine, roots: Iterable[Path] = (), image: str = "") -> Found:
    """`roots`: what the caller is about to use. `image`: as for `recover`.

    Raises EngineUnavailable; SandboxFailed, ApplyConflict: a write that touches `roots` could not be ended.
    """
    containers = await engine.reap()
    await bury(engine)
    ended = await recover(state_dir, engine=engine, roots=roots, image=image)
    killed = await anyio.to_thread.run_sync(tidy.sweep, state_dir)
    return Found(containers=containers, ended=ended, killed=killed)
