"""The container engine, or a sentence on what to do about it."""

from __future__ import annotations

from massgen.errors import SandboxFailed
from sandbox import DockerEngine, EngineUnavailable


async def connect() -> DockerEngine:
    """The engine that `DOCKER_HOST` names, or the local one. Raises SandboxFailed: none, or no permission."""
    try:
        return await DockerEngine.connect()
    except EngineUnavailable as error:
        raise SandboxFailed(f"{error}\n  massgen doctor   says what is missing") from error
