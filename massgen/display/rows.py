"""A row for people: a head, and beside it text that goes on below its own beginning where the terminal is narrow.

A terminal breaks lines in the middle of words and goes on under the head. In a file or a pipe each text is one line, whatever
its length: whoever searches in a log wants to find a row whole.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

NARROW = 24
"""With less room than this beside the head, what is told goes below it."""
ENDLESS = 10_000
SEPARATOR = " ·"


def put(console: Console, head: Text, *told: Text) -> None:
    """Print the head and, from there on, each of `told` on lines of its own."""
    indent = head.cell_len
    narrow = console.is_terminal and console.width < indent + NARROW
    if narrow:
        console.print(head, soft_wrap=True, highlight=False)
        indent = 4
    room = max(console.width - indent, 1) if console.is_terminal else ENDLESS
    rows = [row for text in told for row in text.wrap(console, room)] or [Text()]
    for number, row in enumerate(rows):
        row.rstrip()
        if row.plain.endswith(SEPARATOR):  # the break says it
            row.right_crop(len(SEPARATOR))
        before = head if number == 0 and not narrow else " " * indent
        console.print(Text.assemble(before, row), soft_wrap=True, highlight=False)
