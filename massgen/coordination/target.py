"""Where a run may write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Target:
    """The write paths, and what in them is never changed."""

    roots: tuple[Path, ...]
    protected: tuple[Path, ...] = ()
    """Never changed, whether they exist or not."""

    @property
    def protected_names(self) -> tuple[str, ...]:
        """As strings, for comparing with snapshot paths."""
        return tuple(map(str, self.protected))

    def existing(self) -> tuple[Path, ...]:
        """The protected paths that can be mounted read-only."""
        return tuple(path for path in self.protected if path.exists())
