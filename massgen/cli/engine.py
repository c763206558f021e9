"""The container engine, or a sentence on what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from massgen.errors import SandboxFailed
from sandbox import DockerEngine, EngineUnavailable, SandboxError


@contextmanager
def translated() -> Iterator[None]:
    """What the engine refuses becomes the product's own error. Raises SandboxFailed."""
    try:
        yield
    except SandboxError as error:
        raise SandboxFailed(str(error)) from error


async def connect() -> DockerEngine:
    """The engine that `DOCKER_HOST` names, or the local one. Raises SandboxFailed: none, or no permission."""
    try:
        return await DockerEngine.connect()
    except EngineUnavailable as error:
        raise SandboxFailed(f"{error}\n  massgen doctor   says what is missing") from error
