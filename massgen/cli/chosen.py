"""Which run a command is about when its user names none.

The last one of the folder where the user stands: with two projects at hand, the last run of all may be of the other one, and
`apply` would write there. Where no run is of this folder it is the last of all, and that is said.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click

from massgen.config.paths import Places, here
from massgen.coordination import record as records
from massgen.coordination.record import Record
from massgen.display.text import line


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A run, and how the next command has to name it."""

    state: Path
    folder: Path
    record: Record

    @property
    def run(self) -> str:
        """Its id."""
        return self.record.run_id

    @property
    def named(self) -> str:
        """What follows `massgen undo` so that it means this run: nothing, or a space and the id."""
        return named(self.state, self.run)


def chosen(run: str) -> Chosen:
    """By the start of an id, or without one. Raises ConfigError: none, or several."""
    stand, state = here(), Places.find(os.environ).state
    folder, record = records.find(state, run, here=stand)
    if not run and record.roots and not record.concerns(stand):
        click.echo(f"the last run, {record.run_id}, is of {line(record.roots[0])}", err=True)
    return Chosen(state=state, folder=folder, record=record)


def named(state: Path, run: str) -> str:
    """As `Chosen.named`. Raises ConfigError."""
    return "" if records.find(state, "", here=here())[1].run_id == run else f" {run}"
