"""What `massgen apply` and `massgen undo` share: one write, and a list of what it touched; and the result in other forms."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import anyio
import click

from massgen.cli.chosen import Chosen
from massgen.cli.engine import connect
from massgen.coordination.later import Later, branch, patch, risks
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


def change(write: Write, which: Chosen, *, done: str, then: str) -> int:
    """Do the write and say what it did. `then`: how it is taken back. Returns 0; raises MassgenError with nothing written."""

    async def work() -> Later:
        return await write(
            which.state, which.run, engine=await connect(), say=lambda sentence: click.echo(line(sentence), err=True)
        )

    result = anyio.run(work)
    click.echo(f"{done} {count(len(result.files), 'file')} of run {result.run_id}")
    for file in result.files[:MAX_LISTED]:
        click.echo(f"  {line(file)}")
    if len(result.files) > MAX_LISTED:
        click.echo(f"  and {len(result.files) - MAX_LISTED} more")
    if result.earlier:
        click.echo(f"another part of it is still written; take that back, too: massgen undo{which.named}", err=True)
    click.echo(then, err=True)
    return 0


def consented(which: Chosen, only: Sequence[Path], *, allow: Sequence[str], yes: bool) -> frozenset[str]:
    """The classes of self-running files that the user allows, asked for one at a time where somebody can answer.

    Raises click.UsageError: an unknown class, a class that is not allowed where nobody can be asked, or a no.
    """
    for name in allow:
        if name not in CLASSES:
            raise click.UsageError(f"--allow {name}: there is no such class; there are {', '.join(CLASSES)}")
    if yes:
        return frozenset(CLASSES)
    found = [risk for risk in risks(which.state, which.run, only=only) if risk.kind not in allow]
    allowed = set(allow)
    for risk in found:
        click.echo(f"{risk.kind}: {count(len(risk.paths), 'file')} of those that {risk.why}", err=True)
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


def to_branch(which: Chosen, name: str, only: Sequence[Path]) -> int:
    """The result as a commit on a new branch. Returns 0; raises MassgenError."""
    made = branch(which.state, which.run, name, only=only)
    click.echo(f"branch {made.branch} ({made.sha[:12]}) has {count(len(made.files), 'file')} of the result")
    click.echo(f"look at it: git show {made.branch}", err=True)
    return 0


def to_patch(which: Chosen, file: str, only: Sequence[Path]) -> int:
    """The result as a patch for `git apply`. Returns 0; raises MassgenError."""
    made = patch(which.state, which.run, only=only, binary=True)
    if missing := [line(change.path) for change in made.changes if not change.whole]:
        raise ConfigError(f"too large for a patch: {', '.join(missing[:5])}; `massgen apply` writes it, --only PATH takes a part")
    data = made.text.encode("utf-8", "surrogateescape")
    if file == "-":
        sys.stdout.buffer.write(data)
        return 0
    try:
        Path(file).write_bytes(data)
    except OSError as error:
        raise ConfigError(f"the patch cannot be written to {file}: {error.strerror}") from error
    click.echo(f"{file}: {bytes_text(len(data))}", err=True)
    return 0
