"""`massgen undo [RUN]`."""

from __future__ import annotations

from functools import partial

import click


@click.command("undo")
@click.argument("run", default="")
@click.option("--redo", is_flag=True, help="Take the last undo back.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(run: str, *, redo: bool, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Take a written result back: every file as it was.

    RUN: a run id or the start of one; default: the last run of the folder you stand in.

    Exit code 5 when files were edited since; nothing is written then.
    """
    from massgen.app import undo_run
    from massgen.cli.chosen import chosen
    from massgen.cli.later import change

    which = chosen(run)
    done, then = ("written again", "take it back: massgen undo") if redo else ("undone", "write it again: massgen undo --redo")
    return change(partial(undo_run, redo=redo), which, done=done, then=f"{then}{which.named}")
