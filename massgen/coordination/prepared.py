"""Which image a run's agents get: the configured one, or one prepared from it with `sandbox.prepare`.

The commands and files are the user's own words in a config that the user named (`config/load.py`); still, a file that is
secret-like by name or content is refused, because what a command reads it may leave in the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio.to_thread

from massgen.config.model import PrepareFile, SandboxConfig
from massgen.context.names import inside_secret, words_to_look_for
from massgen.errors import ConfigError
from sandbox import Engine, SpecError
from sandbox.prepare import MAX_FILES_BYTES, Surroundings, prepare


async def prepared_image(
    config: SandboxConfig, engine: Engine, env: Mapping[str, str], *, say: Callable[[str], None] = lambda _line: None
) -> str:
    """The image's name, made first when it is not there. Raises ConfigError, and what `sandbox.prepare.prepare` raises."""
    if not config.prepare:
        return config.image
    files = {file.name: await anyio.to_thread.run_sync(_content, file) for file in config.prepare_files}
    return await prepare(
        engine,
        config.image,
        commands=config.prepare,
        files=files,
        limits=config.limits,
        surroundings=_surroundings(env),
        say=say,
    )


def _surroundings(env: Mapping[str, str]) -> Surroundings:
    try:
        return Surroundings.of(env)
    except SpecError as error:
        raise ConfigError(str(error)) from error


def _content(file: PrepareFile) -> bytes:
    try:
        with file.path.open("rb") as opened:
            content = opened.read(MAX_FILES_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"prepare file {file.path} cannot be read: {error.strerror}") from error
    inside = str(file.path).lstrip("/")
    by_content = any(word in content.lower() for word in (w.lower() for w in words_to_look_for(file.path.name)))
    if inside_secret(inside) or by_content:
        raise ConfigError(f"prepare file {file.path} looks like a secret, and what is prepared stays in an image; leave it out")
    return content
