"""What `massgen apply` and `massgen undo` share: one write, and a list of what it touched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import anyio
import click

from massgen.cli.engine import connect
from massgen.config.paths import Places
from massgen.coordination.later import Later
from massgen.display.text import count, line
from sandbox import Engine

MAX_LISTED = 50


class Write(Protocol):
    """`apply_run` or `undo_run`."""

    async def __call__(self, state_dir: Path, run: str, *, engine: Engine) -> Later:
        """Do it. Raises ConfigError, ApplyConflict, SandboxFailed."""
        ...


def change(write: Write, run: str, *, done: str, then: str) -> int:
    """Do the write and say what it did. Returns 0; raises MassgenError with nothing written."""
    state = Places.find(os.environ).state

    async def work() -> Later:
        return await write(state, run, engine=await connect())

    result = anyio.run(work)
    click.echo(f"{done} {count(len(result.files), 'file')} of run {result.run_id}")
    for file in result.files[:MAX_LISTED]:
        click.echo(f"  {line(file)}")
    if len(result.files) > MAX_LISTED:
        click.echo(f"  and {len(result.files) - MAX_LISTED} more")
    click.echo(then, err=True)
    return 0
