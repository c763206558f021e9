"""`massgen apply [RUN]`."""

from __future__ import annotations

import click


@click.command("apply")
@click.argument("run", default="")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(run: str, *, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Write a run's result into your project, all of it or nothing. RUN: a run id or the start of one; default: the last run.

    Exit code 5 when the project has changed since the agents saw it; nothing is written then.
    """
    from massgen.app import apply_run
    from massgen.cli.later import change

    return change(apply_run, run, done="applied", then="take it back: massgen undo")
