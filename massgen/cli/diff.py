"""`massgen diff [RUN]`."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console


@click.command("diff")
@click.argument("run", default="")
@click.option("--stat", is_flag=True, help="Only the files, with lines added and removed.")
@click.option("--no-pager", is_flag=True, help="Print all of it at once.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(run: str, *, stat: bool, no_pager: bool, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Show what a run changed, or would change. RUN: a run id or the start of one; default: the last run."""
    from massgen.app import diff_run, moved_run
    from massgen.config.paths import Places

    state = Places.find(os.environ).state
    patch = diff_run(state, run)
    _warn(moved_run(state, run))
    if stat:
        for row in stat_lines(patch):
            click.echo(row)
        return 0
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False, emoji=False)
        if no_pager or console.height > patch.count("\n"):
            print_patch(patch, console)
        else:
            os.environ.setdefault("LESS", "FRX")  # colours, and no screen of its own to vanish with
            with console.pager(styles=True):
                print_patch(patch, console)
    else:
        # A patch is data: it must apply byte for byte, undecodable names and all.
        sys.stdout.buffer.write(patch.encode("utf-8", "surrogateescape"))
    return 0


def _warn(moved: tuple[str, ...]) -> None:
    from massgen.display.text import line

    for path in moved:
        click.echo(f"you changed {line(path)} meanwhile: massgen apply keeps both edits, or refuses", err=True)


def stat_lines(patch: str) -> list[str]:
    """`path | +a -b` for each file of a unified diff."""
    rows: list[tuple[str, int, int]] = []
    for line in patch.splitlines():
        header = re.match(r"diff --git a/(.*) b/(.*)\Z", line)
        if header:
            rows.append((header[2], 0, 0))
        elif rows and line.startswith("+") and not line.startswith("+++"):
            rows[-1] = (rows[-1][0], rows[-1][1] + 1, rows[-1][2])
        elif rows and line.startswith("-") and not line.startswith("---"):
            rows[-1] = (rows[-1][0], rows[-1][1], rows[-1][2] + 1)
    width = max((len(name) for name, _, _ in rows), default=0)
    return [f"{name:<{width}} | +{added} -{removed}" for name, added, removed in rows]


def print_patch(patch: str, console: Console) -> None:
    """In colour, with control characters spelled out."""
    from rich.text import Text

    from massgen.display.text import block

    styles = {"+++": "bold", "---": "bold", "dif": "bold", "@@ ": "cyan"}
    for row in block(patch).splitlines():
        style = styles.get(row[:3]) or {"+": "green", "-": "red"}.get(row[:1], "")
        console.print(Text(row, style=style), soft_wrap=True)
