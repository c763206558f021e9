"""`massgen undo [RUN]`."""

from __future__ import annotations

import click


@click.command("undo")
@click.argument("run", default="")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(run: str, *, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Take a written result back: every file as it was. RUN: a run id or the start of one; default: the last run.

    Exit code 5 when files were edited since; nothing is written then.
    """
    from massgen.app import undo_run
    from massgen.cli.later import change

    return change(undo_run, run, done="undone", then="write it again: massgen apply")
