"""From a backend's settings to an open model. Plain values come in: what a config looks like is not known here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio

from massgen.errors import ConfigError
from massgen.models.base import Model
from massgen.models.chat import OPENAI_URL, SILENCE_S, ChatModel
from massgen.models.claude import ANTHROPIC_URL, IGNORES, ClaudeModel
from massgen.models.local import LocalModel
from massgen.models.scripted import ScriptedModel

BACKENDS: Final = ("chatcompletion", "claude", "local", "scripted")


def ignored_keys(backend: str) -> tuple[str, ...]:
    """Keys that a config may have and this backend's provider does not take; for the user to be told once."""
    return IGNORES if backend == "claude" else ()


@asynccontextmanager
async def open_model(
    *,
    backend: str,
    model: str = "",
    base_url: str | None = None,
    api_key: str | None = None,
    key_source: str = "",
    temperature: float | None = None,
    max_tokens: int | None = None,
    extra_body: Mapping[str, Any] | None = None,
    silence_s: float = SILENCE_S,
    script: Path | None = None,
    local: LocalModel | Path | None = None,
) -> AsyncGenerator[Model]:
    """An open model; leaving the block closes its connections.

    `api_key` was resolved already, from `key_source`. `local`: the model that the run's agents share (left open), or the
    path of the weights to open one for this caller alone.

    Raises: ConfigError: a setting is missing, or the backend is unknown.
    """
    opened: Model
    match backend:
        case "scripted":
            if script is None:
                raise ConfigError("backend scripted needs `script`, the path of its script")
            opened = ScriptedModel(script)
        case "chatcompletion":
            opened = ChatModel(
                model=_named(model, backend),
                base_url=base_url or OPENAI_URL,
                api_key=api_key or "",
                key_source=key_source,
                temperature=temperature,
                max_tokens=max_tokens,
                extra_body=extra_body,
                silence_s=silence_s,
            )
        case "claude":
            opened = ClaudeModel(
                model=_named(model, backend),
                base_url=base_url or ANTHROPIC_URL,
                api_key=api_key or "",
                key_source=key_source,
                max_tokens=max_tokens,
                extra_body=extra_body,
                silence_s=silence_s,
            )
        case "local" if isinstance(local, LocalModel):
            opened = local
        case "local" if isinstance(local, Path):
            async with LocalModel.open(local) as alone:
                yield alone
            return
        case "local":
            raise ConfigError("backend local needs the run's local model, or the path of its weights")
        case _:
            raise ConfigError(f"unknown backend type {backend!r}; known are {', '.join(BACKENDS)}")
    try:
        yield opened
    finally:
        with anyio.CancelScope(shield=True):
            await opened.aclose()


def _named(model: str, backend: str) -> str:
    if not model:
        raise ConfigError(f"backend {backend} needs `model`, the name of a model")
    return model
