"""`massgen images`: what of ours lies on the engine, and what of it nobody needs any more."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sandbox.engines.images import ImageRow

DAY_S = 86400.0


@click.group("images")
def command() -> None:
    """The images that `sandbox.prepare` made: list them, remove what nobody needs. Never touches anything else."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def list_images(*, as_json: bool, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Every prepared image: its name, size and age, what it was made from, whether a container uses it."""
    import anyio

    from massgen.cli.engine import connect, translated

    async def rows() -> tuple[ImageRow, ...]:
        with translated():
            return await (await connect()).images().ours()

    _show(anyio.run(rows), as_json=as_json)
    return 0


@command.command("prune")
@click.option("--days", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Unused for at least so long.")
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def prune(*, days: float, dry_run: bool, as_json: bool, debug: bool) -> int:  # noqa: ARG001
    """Remove prepared images that no run has used for some time. What a container uses stays."""
    import anyio

    from massgen.cli.engine import connect, translated
    from sandbox.prepare import forget

    async def rows() -> tuple[ImageRow, ...]:
        with translated():
            return await forget(await connect(), unused_s=days * DAY_S, now=time.time(), dry_run=dry_run)

    gone = anyio.run(rows)
    _show(gone, as_json=as_json)
    if not as_json:
        click.echo(f"{len(gone)} {'image' if len(gone) == 1 else 'images'} {'would go' if dry_run else 'removed'}", err=True)
    return 0


def _show(rows: tuple[ImageRow, ...], *, as_json: bool) -> None:
    from massgen.display.text import bytes_text, duration_text, line
    from sandbox.engines.images import BASE_LABEL
    from sandbox.prepare import last_used

    now = time.time()
    if as_json:
        data = [
            {
                "id": row.id,
                "tags": list(row.tags),
                "size_bytes": row.size_bytes,
                "created": row.created,
                "last_used": max([0.0, *map(last_used, row.tags)]) or None,
                "prepared_from": row.labels.get(BASE_LABEL, ""),
                "in_use": row.in_use,
            }
            for row in rows
        ]
        click.echo(json.dumps(data, indent=2))
        return
    for row in sorted(rows, key=lambda r: -r.created):
        name = ", ".join(row.tags) or row.id.removeprefix("sha256:")[:12]
        age = duration_text(max(now - row.created, 0.0))
        base = line(row.labels.get(BASE_LABEL, ""), 60)
        used = "   in use" if row.in_use else ""
        click.echo(f"{name}   {bytes_text(row.size_bytes)}   {age} old   from {base}{used}")
