"""`massgen apply [RUN]`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import click


@click.command("apply")
@click.argument("run", default="")
@click.option("--only", multiple=True, metavar="PATH", help="Only this file or folder of the result. Repeatable.")
@click.option("--patch", metavar="FILE", help="Write the result as a patch to FILE (`-`: stdout) instead of into the project.")
@click.option(
    "--branch", metavar="NAME", help="Commit the result on a new branch instead; HEAD, index and files stay as they are."
)
@click.option(
    "--allow", multiple=True, metavar="CLASS", help="Write files of this class, which run by themselves, unasked. Repeatable."
)
@click.option("--yes", "-y", is_flag=True, help="Ask nothing: every class is allowed.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(run: str, **given: Any) -> int:  # noqa: ANN401 - click's own values, each described above
    """Write a run's result into your project, all of it or nothing.

    RUN: a run id or the start of one; default: the last run of the folder you stand in.

    What you edited meanwhile is kept where both edits fit; else exit code 5, and nothing is written. Files that your tools
    would run by themselves (hooks, CI, editor tasks, …) are written only when you say so, class by class.
    """
    from massgen.app import apply_run
    from massgen.cli.chosen import chosen
    from massgen.cli.later import change, consented, to_branch, to_patch
    from massgen.config.paths import here

    patch, branch = given["patch"], given["branch"]
    if patch and branch:
        raise click.UsageError("--patch and --branch exclude each other")
    paths = [Path(os.path.normpath(here() / path)) for path in given["only"]]
    which = chosen(run)
    if branch:
        return to_branch(which, branch, paths)
    if patch:
        return to_patch(which, patch, paths)
    allowed = consented(which, paths, allow=given["allow"], yes=given["yes"])
    then = f"take it back: massgen undo{which.named}"
    return change(partial(apply_run, only=paths, allowed=allowed), which, done="applied", then=then)
