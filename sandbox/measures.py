"""Sizes and durations as people type them (`4g`, `512m`, `90s`, `1h`), as numbers: one reader for options and for files.

There is no unlimited: zero, infinity and what no machine has are refused with the range that is taken.
"""

from __future__ import annotations

import re

from sandbox.errors import SpecError

MAX_BYTES = 1024**5
MAX_DURATION_S = 7 * 24 * 3600

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\Z", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|sec|min)?\Z", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}


def size_bytes(text: str | int) -> int:
    """Bytes of `4g`, `512m`, `1.5GiB` or a plain number (units are powers of 1024, as the engine's). Raises SpecError."""
    if isinstance(text, int):
        value: float = text
    else:
        match = _SIZE.match(text.strip()[:40])
        if not match:
            raise SpecError(f"{text[:40]!r} is not a size; write bytes or e.g. `512m`, `4g`")
        value = float(match[1]) * 1024 ** _POWER[match[2].lower()]
    if not 1 <= value <= MAX_BYTES:
        raise SpecError(f"the size {str(text)[:40]} is out of range; write e.g. `512m`, `4g` (there is no unlimited)")
    return int(value)


def duration_s(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `1h`; above zero, at most a week. Raises SpecError."""
    match = _DURATION.match(text.strip()[:40])
    value = float(match[1]) * _SECONDS[(match[2] or "").lower()] if match else 0.0
    if not 0 < value <= MAX_DURATION_S:
        raise SpecError(f"{text[:40]!r} is not a duration; write seconds or e.g. `90s`, `10m`, `1h` (at most a week)")
    return value
