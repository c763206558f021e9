"""`massgen apply [RUN]`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click


@click.command("apply")
@click.argument("run", default="")
@click.option("--only", multiple=True, metavar="PATH", help="Only this file or folder of the result. Repeatable.")
@click.option("--patch", metavar="FILE", help="Write the result as a patch to FILE (`-`: stdout) instead of into the project.")
@click.option(
    "--branch", metavar="NAME", help="Commit the result on a new branch instead; HEAD, index and files stay as they are."
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(run: str, *, only: tuple[str, ...], patch: str | None, branch: str | None, debug: bool) -> int:  # noqa: ARG001
    """Write a run's result into your project, all of it or nothing. RUN: a run id or the start of one; default: the last run.

    What you edited meanwhile is kept where both edits fit; else exit code 5, and nothing is written.
    """
    from massgen.app import apply_run
    from massgen.cli.later import change, to_branch, to_patch

    if patch and branch:
        raise click.UsageError("--patch and --branch exclude each other")
    paths = [Path(os.path.normpath(Path.cwd() / path)) for path in only]
    if branch:
        return to_branch(run, branch, paths)
    if patch:
        return to_patch(run, patch, paths)
    return change(partial(apply_run, only=paths), run, done="applied", then="take it back: massgen undo")
