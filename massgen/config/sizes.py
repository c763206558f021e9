"""Sizes and durations as people write them (`4g`, `512m`, `90s`, `1h`), as numbers with a unit in their name."""

from __future__ import annotations

import re
from dataclasses import replace

from massgen.config.schema import RawSandbox
from massgen.config.source import Document
from massgen.errors import ConfigError
from sandbox.spec import MIB, Limits

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\Z", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|sec|min)?\Z", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}

MIN_MEMORY_BYTES = 64 * MIB
MIN_DISK_BYTES = MIB
MAX_BYTES = 1024**5
MAX_DURATION_S = 7 * 24 * 3600


def size_bytes(text: str | int) -> int:
    """Bytes of `4g`, `512m`, `1.5GiB` or a plain number (units are powers of 1024, as the engine's). Raises ConfigError."""
    if isinstance(text, int):
        value: float = text
    else:
        match = _SIZE.match(text.strip()[:40])
        if not match:
            raise ConfigError(f"{text[:40]!r} is not a size; write bytes or e.g. `512m`, `4g`")
        value = float(match[1]) * 1024 ** _POWER[match[2].lower()]
    if not 0 < value <= MAX_BYTES:
        raise ConfigError(f"the size {str(text)[:40]} is out of range; there is no unlimited")
    return int(value)


def duration_s(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `1h`. Raises ConfigError."""
    match = _DURATION.match(text.strip()[:40])
    value = float(match[1]) * _SECONDS[(match[2] or "").lower()] if match else 0.0
    if not 0 < value <= MAX_DURATION_S:
        raise ConfigError(f"{text[:40]!r} is not a duration; write seconds or e.g. `90s`, `10m`, `1h` (at most a week)")
    return value


def limits(document: Document, raw: RawSandbox, command_timeout_s: float | None) -> Limits:
    """The sandbox's limits: defaults, less or more what `sandbox:` says. Raises ConfigError with the key's line."""
    out = Limits()
    if raw.memory is not None:
        out = replace(out, memory_bytes=_size(document, "memory", raw.memory, MIN_MEMORY_BYTES))
    if raw.disk is not None:
        out = replace(out, workspace_bytes=_size(document, "disk", raw.disk, MIN_DISK_BYTES))
    if raw.cpus is not None:
        out = replace(out, cpus=float(raw.cpus))
    if raw.pids is not None:
        out = replace(out, pids=raw.pids)
    if command_timeout_s is not None:
        out = replace(out, command_timeout_s=float(command_timeout_s))
    return out


def _size(document: Document, key: str, given: str | int, least: int) -> int:
    try:
        value = size_bytes(given)
    except ConfigError as error:
        raise document.error(("sandbox", key), str(error)) from error
    if value < least:
        raise document.error(("sandbox", key), f"{given} is too little to work in; at least {least // MIB}m")
    return value
