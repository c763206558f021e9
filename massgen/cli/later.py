"""What `massgen apply` and `massgen undo` share: one write, and a list of what it touched; and the result in other forms."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import anyio
import click

from massgen.cli.engine import connect
from massgen.config.paths import Places
from massgen.coordination.later import Later, branch, diff
from massgen.display.text import bytes_text, count, line
from massgen.errors import ConfigError
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


def to_branch(run: str, name: str, only: Sequence[Path]) -> int:
    """The result as a commit on a new branch. Returns 0; raises MassgenError."""
    made = branch(Places.find(os.environ).state, run, name, only=only)
    click.echo(f"branch {made.branch} ({made.sha[:12]}) has {count(len(made.files), 'file')} of the result")
    click.echo(f"look at it: git show {made.branch}", err=True)
    return 0


def to_patch(run: str, file: str, only: Sequence[Path]) -> int:
    """The result as a patch for `git apply`. Returns 0; raises MassgenError."""
    patch = diff(Places.find(os.environ).state, run, only=only).encode("utf-8", "surrogateescape")
    if file == "-":
        sys.stdout.buffer.write(patch)
        return 0
    try:
        Path(file).write_bytes(patch)
    except OSError as error:
        raise ConfigError(f"the patch cannot be written to {file}: {error.strerror}") from error
    click.echo(f"{file}: {bytes_text(len(patch))}", err=True)
    return 0
