"""What `massgen apply` and `massgen undo` share: one write, and a list of what it touched; and the result in other forms."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import anyio
import click

from massgen.cli.engine import connect
from massgen.config.paths import Places
from massgen.coordination.later import Later, branch, diff, risks
from massgen.coordination.risks import CLASSES
from massgen.display.text import bytes_text, count, line
from massgen.errors import ConfigError
from sandbox import Engine

MAX_LISTED = 50


class Write(Protocol):
    """`apply_run` or `undo_run`."""

    async def __call__(self, state_dir: Path, run: str, *, engine: Engine, say: Callable[[str], None]) -> Later:
        """Do it. Raises ConfigError, ApplyConflict, SandboxFailed."""
        ...


def change(write: Write, run: str, *, done: str, then: str) -> int:
    """Do the write and say what it did. Returns 0; raises MassgenError with nothing written."""
    state = Places.find(os.environ).state

    async def work() -> Later:
        return await write(state, run, engine=await connect(), say=lambda sentence: click.echo(line(sentence), err=True))

    result = anyio.run(work)
    click.echo(f"{done} {count(len(result.files), 'file')} of run {result.run_id}")
    for file in result.files[:MAX_LISTED]:
        click.echo(f"  {line(file)}")
    if len(result.files) > MAX_LISTED:
        click.echo(f"  and {len(result.files) - MAX_LISTED} more")
    click.echo(then, err=True)
    return 0


def consented(run: str, only: Sequence[Path], *, allow: Sequence[str], yes: bool) -> frozenset[str]:
    """The classes of self-running files that the user allows, asked for one at a time where somebody can answer.

    Raises click.UsageError: an unknown class, a class that is not allowed where nobody can be asked, or a no.
    """
    for name in allow:
        if name not in CLASSES:
            raise click.UsageError(f"--allow {name}: there is no such class; there are {', '.join(CLASSES)}")
    if yes:
        return frozenset(CLASSES)
    found = [risk for risk in risks(Places.find(os.environ).state, run, only=only) if risk.kind not in allow]
    allowed = set(allow)
    for risk in found:
        click.echo(f"{risk.kind}: {count(len(risk.paths), 'file')} that {risk.why}", err=True)
        for path in risk.paths[:MAX_LISTED]:
            click.echo(f"  {line(path)}", err=True)
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            continue
        if not click.confirm("Write them?", err=True):
            raise click.UsageError("nothing was written; `massgen diff` shows all of it, --only PATH writes a part")
        allowed.add(risk.kind)
    if missing := [risk.kind for risk in found if risk.kind not in allowed]:
        flags = " ".join(f"--allow {name}" for name in missing)
        raise click.UsageError(f"nobody is here to confirm; to write these, add {flags} (or --yes for all)")
    return frozenset(allowed)


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
