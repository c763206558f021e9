"""`massgen diff [RUN]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from sandbox.patch import FileChange


@click.command("diff")
@click.argument("run", default="")
@click.option("--stat", is_flag=True, help="Only the files, with lines added and removed.")
@click.option("--no-pager", is_flag=True, help="Print all of it at once.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(run: str, *, stat: bool, no_pager: bool, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Show what a run changed, or would change.

    RUN: a run id or the start of one; default: the last run of the folder you stand in. To a file or a pipe it is a patch that
    `git apply` takes.
    """
    from massgen.cli.chosen import chosen
    from massgen.coordination.later import moved, patch

    which = chosen(run)
    terminal = sys.stdout.isatty()
    made = patch(which.state, which.run, binary=not terminal and not stat)
    _warn(moved(which.state, which.run))
    if not made.changes:
        click.echo(f"{which.run} changed nothing", err=True)
    if stat:
        from rich.console import Console

        console = Console(highlight=False, emoji=False)
        for row in stat_lines(made.changes):
            console.print(row, soft_wrap=True)
    elif terminal:
        _page(made.text, no_pager=no_pager)
    else:
        _warn_partial([change.path for change in made.changes if not change.whole])
        # A patch is data: it must apply byte for byte, undecodable names and all.
        sys.stdout.buffer.write(made.text.encode("utf-8", "surrogateescape"))
    return 0


def _page(patch: str, *, no_pager: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if no_pager or console.height > patch.count("\n"):
        print_patch(patch, console)
    else:
        os.environ.setdefault("LESS", "FRX")  # colours, and no screen of its own to vanish with
        with console.pager(styles=True):
            print_patch(patch, console)


def _warn(moved: tuple[str, ...]) -> None:
    from massgen.display.text import line

    for path in moved:
        click.echo(f"you changed {line(path)} meanwhile: massgen apply keeps both edits, or refuses", err=True)


def _warn_partial(missing: Sequence[str]) -> None:
    """Of files that the patch cannot carry: who applies it must not take it for the whole result."""
    from massgen.display.text import line

    for path in missing:
        click.echo(f"not in this patch: {line(path)}, too large for one; massgen apply writes it", err=True)


def stat_lines(changes: Sequence[FileChange]) -> list[Text]:
    """`path | +a -b` for each file, with what else there is to say of it, and the sum."""
    from rich.text import Text

    from massgen.display.text import count, line, padded, widest

    names = [line(change.path) for change in changes]
    width = widest(names)
    rows = [Text.assemble(f"{padded(name, width)} | ", *_figures(change)) for name, change in zip(names, changes, strict=True)]
    if len(changes) > 1:
        added, removed = sum(change.added for change in changes), sum(change.removed for change in changes)
        rows.append(Text(f"{count(len(changes), 'file')} +{added} -{removed}", style="bold"))
    return rows


def _figures(change: FileChange) -> list[tuple[str, str]]:
    if change.binary:
        figures = [("binary", "")]
    elif change.kind == "changed" and not change.added + change.removed:
        figures = [("mode", "")]
    else:
        figures = [(f"+{change.added}", "green"), (" ", ""), (f"-{change.removed}", "red")]
    return [*figures, ("" if change.kind == "changed" else f", {change.kind}", "dim")]


def print_patch(patch: str, console: Console) -> None:
    """In colour, with control characters spelled out."""
    from rich.text import Text

    from massgen.display.text import block

    styles = {"+++": "bold", "---": "bold", "dif": "bold", "@@ ": "cyan"}
    for row in block(patch).splitlines():
        style = styles.get(row[:3]) or {"+": "green", "-": "red"}.get(row[:1], "")
        console.print(Text(row, style=style), soft_wrap=True)
