"""The seam under which engines differ: start a planned container, give back a duplex byte stream and a way to end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sandbox.plan import Plan

if TYPE_CHECKING:
    from sandbox.engines.images import Images


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What matters of an image; its ENTRYPOINT, USER and HEALTHCHECK are overridden and need no look."""

    id: str
    volumes: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    """Names of the variables it sets."""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What kind of engine this is, for `doctor` and for the record."""

    name: str
    version: str
    api: str
    kernel: str
    cgroups: str
    cpus: int
    memory_bytes: int
    security: tuple[str, ...]
    id: str = ""
    """Tells this installation from any other."""
    local: bool = False
    """It mounts what this process sees under the same name: a socket of this machine, no network between."""
    isolates: bool = True
    """False for the fake: there is nothing to prove."""
    recursive_ro: bool = False
    """A read-only mount can be forced to hold for what is mounted below it."""
    runtimes: tuple[str, ...] = ()
    """What can be asked for by `SandboxSpec.runtime`."""
    missing: tuple[str, ...] = ()
    """Limits that this engine cannot enforce; any of them stops a run."""


class Link(Protocol):
    """The stdin and stdout of one running guest."""

    container: str
    """The engine's id of the container."""

    def offer(self, data: bytes | memoryview) -> int:
        """How many of these bytes were taken at once, without waiting. Raises SandboxLost."""
        ...

    async def send(self, data: bytes | memoryview) -> None:
        """All of it, waiting while the other side is slow. Raises SandboxLost."""
        ...

    async def pump(self, take: Callable[[bytes | memoryview], None]) -> None:
        """Hand on what the guest sends until the stream ends; an error of `take` ends it too. A view lives for one call."""
        ...

    def last_words(self) -> str:
        """What the guest wrote on stderr, at most 64 KiB."""
        ...

    async def let_go(self, patience_s: float) -> float | None:
        """Close the stream as the end of this process would, and nothing else: seconds until the container was gone by itself.

        None: it outlived our patience. `aclose` is still to be called.
        """
        ...

    async def aclose(self) -> None:
        """End the container and wait until it is gone. Idempotent, bounded; run it shielded."""
        ...


ALIVE_S = 2.0
"""How long an engine may take to say that it lives, when one of its containers is gone."""


class Engine(Protocol):
    """One container engine."""

    async def facts(self) -> EngineFacts:
        """Raises EngineUnavailable."""
        ...

    async def image(self, name: str) -> ImageFacts:
        """Raises ImageMissing, EngineUnavailable. Never pulls."""
        ...

    def images(self) -> Images:
        """What can be done with its images. Raises EngineError: nothing."""
        ...

    async def start(self, plan: Plan) -> Link:
        """A running guest, attached. When it raises (StartFailed, EngineError) or is cancelled, nothing is left behind."""
        ...

    async def sweep(self, folder: Path, image: str) -> None:
        """Empty a folder of ours whose content is partly root's. Bounded. Raises EngineError."""
        ...

    async def alive(self) -> bool:
        """Whether it answers, within `ALIVE_S`. Never raises; may be cancelled at any moment."""
        ...

    async def reap(self) -> tuple[str, ...]:
        """Remove containers (returning their ids) and volumes whose owner process is dead."""
        ...
