"""`massgen gc`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click


@click.command("gc")
@click.option(
    "--keep-days",
    default=30.0,
    show_default=True,
    metavar="DAYS",
    type=click.FloatRange(min=0),
    help="Remove runs older than this.",
)
@click.option("--keep-size", metavar="SIZE", help="Then remove the oldest, until what is kept is at most this large (2g, 500m).")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(*, keep_days: float, keep_size: str | None, dry_run: bool, as_json: bool, debug: bool) -> int:  # noqa: ARG001
    """Remove what dead runs left: containers, folders, old runs, and file contents that no run needs any more.

    A run that goes on is never touched. What a removed run wrote stays in your project, but can no longer be taken back.
    """
    import anyio

    from massgen.cli.engine import translated
    from massgen.config.paths import Places
    from massgen.config.sizes import size_bytes
    from massgen.coordination import tidy
    from massgen.coordination.shelf import collect
    from massgen.display.text import bytes_text, count
    from massgen.errors import SandboxFailed

    state = Places.find(os.environ).state
    limit = size_bytes(keep_size) if keep_size else None
    containers: tuple[str, ...] = ()
    if not dry_run:
        try:
            containers = anyio.run(_reap, state)
        except SandboxFailed:
            tidy.sweep(state)
            click.echo("no engine answers: containers were not looked for", err=True)
    with translated():
        swept = collect(state, keep_days=keep_days, keep_bytes=limit, dry_run=dry_run)
    if as_json:
        found = {"runs": swept.runs, "blobs": swept.blobs, "bytes": swept.bytes, "containers": len(containers)}
        click.echo(json.dumps({**found, "dry_run": dry_run}))
        return 0
    verb = "would remove" if dry_run else "removed"
    left = f", {count(len(containers), 'container')}" if containers else ""
    click.echo(f"{verb} {count(len(swept.runs), 'run')}, {count(swept.blobs, 'file')}{left}: {bytes_text(swept.bytes)}")
    for run in swept.runs:
        click.echo(f"  {run}")
    return 0


async def _reap(state: Path) -> tuple[str, ...]:
    from massgen.cli.engine import connect, translated
    from massgen.coordination.start import clean_start
    from massgen.display.text import line

    engine = await connect()
    with translated():
        found = await clean_start(state, engine=engine)
    for sentence in found.ended:
        click.echo(line(sentence, 1000), err=True)
    return found.containers
