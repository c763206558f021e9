"""What must be there before a run begins: a good engine, what is visible, and the image that its agents get.

That is the configured image, or one prepared from it with `sandbox.prepare`.

The commands and files are the user's own words in a config that the user named (`config/load.py`); still, a file that is
secret-like by name or content is refused, because what a command reads it may leave in the image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from massgen.config.model import Config, PrepareFile, SandboxConfig
from massgen.context.names import inside_secret, words_to_look_for
from massgen.context.rules import Rules, rules_for
from massgen.coordination import direct
from massgen.coordination.shown import Shown, decide
from massgen.coordination.start import Found, clean_start
from massgen.errors import ConfigError, SandboxFailed
from sandbox import Engine, SandboxError, SpecError
from sandbox.plan_checks import check_machine
from sandbox.prepare import MAX_FILES_BYTES, Surroundings, prepare
from sandbox.probe import require


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Nothing stands in the way of a run."""

    context: Rules
    shown: Mapping[Path, Shown]
    """By context path."""
    image: str
    """What its agents get."""
    clean: Found
    """What dead runs had left."""


async def _fits(config: Config, engine: Engine) -> None:
    """Raises ConfigError for limits beyond the engine's machine: every container would be refused, one by one."""
    machine = await engine.facts()
    try:
        check_machine(config.sandbox.limits, cpus=machine.cpus, memory_bytes=machine.memory_bytes)
    except SpecError as error:
        raise ConfigError(f"{config.source or 'sandbox'}: {error}") from error


async def ready(config: Config, engine: Engine, state_dir: Path, say: Callable[[str], None]) -> Ready:
    """Once all that dead runs left is away. Raises ConfigError, SandboxFailed, ApplyConflict."""
    paths = [*config.context_paths, *(path for agent in config.agents for path in agent.context_paths)]
    roots = [path.path for path in config.write_paths]
    try:
        await engine.image(config.sandbox.image)
        await _fits(config, engine)
        clean = await clean_start(state_dir, engine=engine, roots=roots, image=config.sandbox.image)
        context = await anyio.to_thread.run_sync(rules_for, paths)
        if config.write == "direct":
            await anyio.to_thread.run_sync(direct.check, roots)
        image = await prepared_image(config.sandbox, engine, os.environ, say=say)
        about = config.sandbox
        await require(engine, image, runtime=about.runtime, draft=about.draft, required=about.require)
        shown = await decide(paths, context, draft=about.draft, engine=engine, image=image, runtime=about.runtime)
    except SandboxError as error:
        raise SandboxFailed(str(error)) from error
    return Ready(context=context, shown=shown, image=image, clean=clean)


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
