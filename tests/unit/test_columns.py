"""Rows of a terminal stay in line and on the screen, whatever the files and agents are called."""

from __future__ import annotations

import io

from rich.console import Console

from massgen.cli.diff import stat_lines
from massgen.display.plain import Progress
from massgen.display.text import line
from massgen.events.codec import Envelope
from massgen.events.types import LookStarted
from sandbox.patch import FileChange


def test_wide_characters_push_columns_out_of_line() -> None:
    """A cut and a pad count the columns of a terminal, of which a Chinese or Japanese character takes two."""
    assert line("漢字漢字 and more", 8) == "漢字漢…"
    assert line("漢字 abc", 6) == "漢字…"
    assert line("漢字", 4) == "漢字"
    rows = stat_lines([FileChange(path=path, kind="changed", added=1) for path in ("漢字.py", "a")])
    assert [str(row) for row in rows[:2]] == ["漢字.py | +1 -0", "a       | +1 -0"]


def test_sixteen_agents_fill_the_screen_with_one_anothers_names() -> None:
    """A look at few answers names them, one at many counts them."""
    out = io.StringIO()
    progress = Progress(Console(file=out, width=80))
    for last in (3, 17):
        look = LookStarted(agent="agent1", answers=tuple(f"agent{n}.1" for n in range(1, last)))
        progress(Envelope(seq=last, ts="2026-01-01T00:00:00+00:00", run_id="r", event=look))
    assert [row.split("  ")[-1] for row in out.getvalue().splitlines()] == ["looks at agent1.1, agent2.1", "looks at 16 answers"]
