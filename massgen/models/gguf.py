"""What a model file says about itself, and how much of it this machine can hold: context size and threads.

Only the head of the file is read, with limits: it may come from anywhere. A context as long as the model was trained for would
take more memory for its cache than for its weights, so it is what half of the memory that is left can hold, and at most 32,768.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from massgen.errors import ConfigError

LEAST_CONTEXT: Final = 2048
MOST_CONTEXT: Final = 32_768
MOST_THREADS: Final = 8
"""More than the memory of an ordinary machine can feed."""

_PLAIN: Final[Mapping[int, str]] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING: Final = 8
_MOST_ENTRIES: Final = 1000
_MOST_STRING: Final = 1 << 20
_CACHE_BYTES: Final = 2
"""Of each number in the cache: half precision."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of one model."""

    name: str
    trained_tokens: int
    cache_bytes_per_token: int
    file_bytes: int


def shape(path: Path) -> Shape:
    """What the file says. Raises: ConfigError: it cannot be read or is none."""
    try:
        with path.open("rb") as file:
            found = _head(file)
        size = path.stat().st_size
    except OSError as error:
        raise ConfigError(f"the model file {path} cannot be read: {error.strerror}") from error
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a GGUF model file ({error})") from error
    kind = str(found.get("general.architecture", ""))

    def number(key: str, default: int = 0) -> int:
        value = found.get(f"{kind}.{key}", default)
        return value if isinstance(value, int) else default

    heads = number("attention.head_count", 1) or 1
    width = number("attention.key_length") or number("embedding_length") // heads
    per_token = 2 * number("block_count") * number("attention.head_count_kv", heads) * width * _CACHE_BYTES
    trained = number("context_length")
    if not per_token or not trained:
        raise ConfigError(f"{path} does not say how large its model is; it is not one that llama.cpp can run")
    name = str(found.get("general.name", "")) or path.stem
    return Shape(name=name, trained_tokens=trained, cache_bytes_per_token=per_token, file_bytes=size)


def context_tokens(model: Shape, *, free_bytes: int) -> int:
    """What prompt and answer together may take. Raises: ConfigError: the machine is too small for it."""
    left = free_bytes - model.file_bytes
    tokens = min(model.trained_tokens, MOST_CONTEXT, left // 2 // model.cache_bytes_per_token) // 256 * 256
    if tokens < LEAST_CONTEXT:
        need = model.file_bytes + 2 * LEAST_CONTEXT * model.cache_bytes_per_token
        raise ConfigError(
            f"{model.name} needs {need / 1e9:.1f} GB of memory and {free_bytes / 1e9:.1f} GB are free; use a smaller model file"
        )
    return tokens


def free_memory_bytes(root: Path = Path("/")) -> int:
    """What can be had without swapping: of the machine, or of the control group that we are in."""
    free = 0
    for row in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
        if row.startswith("MemAvailable:"):
            free = int(row.split()[1]) * 1024
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            group = root / "sys/fs/cgroup"
            free = min(free, int((group / most).read_text()) - int((group / used).read_text()))
    return max(0, free)


def threads() -> int:
    """As many as this process may use processors, at most eight."""
    return max(1, min(MOST_THREADS, len(os.sched_getaffinity(0))))


def _head(file: IO[bytes]) -> dict[str, object]:
    """Its entries up to the tokenizer's, which come last and are long. Raises: ValueError, struct.error."""
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin as one")
    version, _, entries = struct.unpack("<IQQ", file.read(20))
    if version not in (2, 3):
        raise ValueError(f"version {version}")
    found: dict[str, object] = {}
    for _ in range(min(entries, _MOST_ENTRIES)):
        key = _string(file)
        if key.startswith("tokenizer."):
            break
        found[key] = _value(file, *struct.unpack("<I", file.read(4)))
    return found


def _value(file: IO[bytes], kind: int) -> object:
    if kind == _STRING:
        return _string(file)
    if kind in _PLAIN:
        return struct.unpack(_PLAIN[kind], file.read(struct.calcsize(_PLAIN[kind])))[0]
    if kind == 9:
        inner, length = struct.unpack("<IQ", file.read(12))
        if length > _MOST_ENTRIES or inner == 9:
            raise ValueError("a list without end")
        return [_value(file, inner) for _ in range(length)]
    raise ValueError(f"a value of the unknown kind {kind}")


def _string(file: IO[bytes]) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _MOST_STRING:
        raise ValueError("a text without end")
    return file.read(length).decode()
