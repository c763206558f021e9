"""From a backend's settings to an open model. Plain values come in: what a config looks like is not known here."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict

import anyio

from massgen.config.backends import TABLE, BackendType
from massgen.errors import ConfigError
from massgen.models.base import Model, Options
from massgen.models.chat import ChatModel
from massgen.models.claude import ClaudeModel
from massgen.models.gemini import GeminiModel
from massgen.models.local import LocalModel
from massgen.models.openai_sdk import SILENCE_S, OpenAIClient
from massgen.models.responses import ResponsesModel
from massgen.models.scripted import ScriptedModel

AZURE_VERSION = "preview"
"""Azure's Responses API lives under `/openai/v1`, whose version is this word unless the config names one."""


@asynccontextmanager
async def open_model(
    *,
    backend: BackendType,
    model: str = "",
    base_url: str = "",
    api_key: str = "",
    key_source: str = "",
    api_version: str = "",
    options: Options = Options(),  # noqa: B008 - frozen
    silence_s: float = SILENCE_S,
    script: Path | None = None,
    local: LocalModel | Path | None = None,
) -> AsyncGenerator[Model]:
    """An open model; leaving the block closes its connections.

    `api_key` was resolved already, from `key_source`. `local`: the model that the run's agents share (left open), or the
    path of the weights to open one for this caller alone.

    Raises: ConfigError: a setting is missing, or the backend is unknown.
    """
    if isinstance(local, Path):
        async with LocalModel.open(local) as alone:
            yield alone
        return
    row = TABLE.get(backend)
    if row is None:
        raise ConfigError(f"unknown backend type {backend!r}; known are {', '.join(TABLE)}")
    opened: Model
    if row.protocol == "recorded":
        if script is None:
            raise ConfigError("backend scripted needs `script`, the path of its script")
        opened = ScriptedModel(script)
    elif row.protocol == "embedded":
        if local is None:
            raise ConfigError("backend local needs the run's local model, or the path of its weights")
        opened = local
    else:
        where = _Where(
            model=_named(model, backend),
            base_url=base_url or row.url,
            api_key=api_key,
            key_source=key_source,
            silence_s=silence_s,
        )
        opened = _remote(backend, where, options, api_version)
    try:
        yield opened
    finally:
        with anyio.CancelScope(shield=True):
            await opened.aclose()


class _Where(TypedDict):
    """What every adapter of a remote model is told."""

    model: str
    base_url: str
    api_key: str
    key_source: str
    silence_s: float


def _remote(backend: BackendType, where: _Where, options: Options, api_version: str) -> Model:
    protocol = TABLE[backend].protocol
    if not where["base_url"]:
        raise ConfigError(f"backend {backend} needs `base_url`, the address of its endpoint")
    if protocol == "messages":
        return ClaudeModel(**where, options=options)
    if protocol == "generate":
        return GeminiModel(**where, options=options)
    if backend == "azure_openai":
        where["base_url"] = _azure_url(where["base_url"])
        client = OpenAIClient(**where, api_version=api_version or AZURE_VERSION)
    else:
        client = OpenAIClient(**where)
    if protocol == "chat":
        return ChatModel(client, options=options, xai_search=backend == "grok")
    return ResponsesModel(client, options=options)


def _azure_url(url: str) -> str:
    """The resource's address is what people have; the API is below it."""
    trimmed = url.rstrip("/")
    return trimmed if "/openai" in trimmed else f"{trimmed}/openai/v1"


def _named(model: str, backend: str) -> str:
    if not model:
        raise ConfigError(f"backend {backend} needs `model`, the name of a model")
    return model
