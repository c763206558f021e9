"""What an engine can do with images, apart from running guests: the seam under `prepare` and the image commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sandbox.engines.base import Link
from sandbox.spec import Limits

Network = Literal["bridge", "host", "none"]

PREPARED_LABEL = "massgen.prepared"
"""On images that `prepare` made: the hash of what they were made from."""
BASE_LABEL = "massgen.base"
"""On images that were made from another one: its name. (scripts/lib/image.sh writes it too.)"""
VARIANT_LABEL = "massgen.variant"
"""On images that were built from a Dockerfile of ours: which one."""
FOLDER = "/massgen-prepare"
"""Where the files lie while an image is prepared; not in the image."""


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """A container in which commands may change everything, to be kept as an image."""

    image: str
    """The base image's id."""
    limits: Limits
    network: Network
    folder_bytes: int


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """One image of ours."""

    id: str
    tags: tuple[str, ...]
    size_bytes: int
    created: float
    """Seconds since the epoch."""
    labels: Mapping[str, str] = field(default_factory=dict)
    in_use: bool = False
    """A container, running or not, was made from it."""


class Images(Protocol):
    """The images of one engine."""

    async def open(self, preparing: Preparing, *, program: str) -> Link:
        """A started container running a Python program as root, attached. It dies with its stdin.

        Raises StartFailed, EngineError; nothing is left behind then, nor when cancelled.
        """
        ...

    async def keep(self, link: Link, *, tag: str, labels: Mapping[str, str], comment: str) -> None:
        """The ended container as an image with that tag. Raises EngineError."""
        ...

    async def ours(self) -> tuple[ImageRow, ...]:
        """Every image that carries a label of ours, untagged ones included. Nothing else."""
        ...

    async def remove(self, image: str) -> bool:
        """Remove an image or a tag; False when a container uses it. Raises EngineError."""
        ...
