"""`massgen exec [limits] -- COMMAND …`: `python -m sandbox run`, with the product's own rules on what is never shown."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

HISTORY_S = 3.0
"""A command does not wait longer for its history, as a run would: 300,000 objects are judged by then."""

if TYPE_CHECKING:
    from massgen.context.rules import Rules
    from sandbox.spec import GitView


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(args: tuple[str, ...]) -> int:
    """Run one command in a sandbox."""
    from sandbox.command import main

    try:
        return main(args, prog="massgen exec", withhold=_withhold, git=_git)
    except SystemExit as ended:  # argparse has said what there is to say
        return int(ended.code or 0)


def _withhold(path: Path) -> tuple[str, ...]:
    return _rules(path).withhold(path)


def _git(path: Path) -> GitView:
    return _rules(path).repository(path, within_s=HISTORY_S).view


@cache
def _rules(path: Path) -> Rules:
    """One walk of a path answers both."""
    from massgen.config.model import ContextPath
    from massgen.context.rules import rules_for

    return rules_for([ContextPath(path=path)])
