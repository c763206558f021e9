"""Foreign text made fit for a terminal.

Models, files and tools write what they like; a terminal obeys some of it. Escape sequences can retitle the
window, write to the clipboard or repaint a line that was already read; bidirectional marks make a path read
as another. All such characters are shown as what they are instead.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from rich.cells import cell_len, set_cell_size

_KEEP = "\n\t"
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control, format (bidi, zero width), lone surrogates, line and paragraph separators."""


def block(text: str) -> str:
    """Several lines: newlines and tabs stay, CRLF becomes a newline, everything else that acts is spelled out."""
    return "".join(c if c in _KEEP else _spelled(c) for c in text.replace("\r\n", "\n"))


def line(text: str, width: int = 0) -> str:
    """One line: white space is folded, the rest as `block`; cut to `width` columns with an ellipsis (0: not cut)."""
    flat = "".join(_spelled(c) for c in " ".join(text.split()))
    return flat if not width or cell_len(flat) <= width else set_cell_size(flat, max(width - 1, 1)).rstrip() + "…"


def padded(text: str, width: int) -> str:
    """With spaces up to `width` columns of a terminal, in which a Chinese or Japanese character takes two."""
    return text + " " * (width - cell_len(text))


def widest(texts: Iterable[str], *, least: int = 0) -> int:
    """The columns that the widest of these takes."""
    return max([least, *map(cell_len, texts)])


def _spelled(char: str) -> str:
    if char == "\u200d" or unicodedata.category(char) not in _HIDDEN:  # a zero width joiner makes one emoji of two
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def bytes_text(count: int) -> str:
    """`812 B`, `4.0 KiB`, `1.2 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 file`, `2 files`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def duration_text(seconds: float) -> str:
    """`0.4 s`, `12 s`, `1 min 44 s`, `6 h 53 min`, `3 d 2 h`: never more than two units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((n for n, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)
