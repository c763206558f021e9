"""`massgen runs`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from massgen.coordination.record import Record
    from massgen.coordination.shelf import Shelved


@click.command("runs")
@click.option("-n", "--last", default=20, show_default=True, metavar="N", help="At most so many; 0: all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run, as lines.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(*, last: int, as_json: bool, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """List runs, the last one first."""
    from massgen.config.paths import Places
    from massgen.coordination.shelf import shelf

    found = shelf(Places.find(os.environ).state)
    shown = found[:last] if last > 0 else found
    if as_json:
        for run in shown:
            click.echo(json.dumps(_row(run)))
        return 0
    if not shown:
        click.echo("no runs yet; start one with `massgen run`", err=True)
        return 0
    _table(shown)
    for run in shown:
        if run.resumable:
            click.echo(f"{run.record.run_id} can go on: massgen resume {run.record.run_id}", err=True)
    if len(shown) < len(found):
        click.echo(f"{len(found) - len(shown)} older; massgen runs -n 0", err=True)
    return 0


def _row(run: Shelved) -> dict[str, object]:
    record = run.record
    return {
        "run": record.run_id,
        "started": record.started,
        "status": run.status,
        "exit_code": record.exit_code,
        "winner": record.winner_id(),
        "agents": [agent["id"] for agent in record.agents],
        "resumable": run.resumable,
        "written": record.written is not None,
        "prompt": record.prompt,
        "folder": str(run.folder),
        "bytes": run.bytes,
    }


def _table(runs: tuple[Shelved, ...]) -> None:
    """Columns as wide as what is in them; the task takes what is left of the line, and is whole where there is no terminal."""
    from rich.console import Console
    from rich.text import Text

    from massgen.display.text import line, padded, widest

    console = Console(highlight=False, emoji=False)
    styles = {"done": "green", "applied": "green", "running": "cyan"}
    rows = [
        (
            (run.record.run_id, "bold"),
            (run.status, styles.get(run.status, "yellow")),
            (line(run.record.winner_id(), 24), ""),
            (_stands(run.record), "dim"),
        )
        for run in runs
    ]
    widths = [widest(cells[column][0] for cells in rows) for column in range(4)]
    left = max(console.width - sum(widths) - 2 * len(widths), 20) if console.is_terminal else 0
    for cells, run in zip(rows, runs, strict=True):
        row = Text()
        for (text, style), width in zip(cells, widths, strict=True):
            row.append(padded(text, width) + "  ", style)
        console.print(row.append(line(run.record.prompt, left)), soft_wrap=True)


def _stands(record: Record) -> str:
    if record.written:
        return "written"
    return "taken back" if record.undone else "not written" if record.snapshot else ""
