"""The models of a team: one for each agent, the embedded ones loaded once and shared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from massgen.config.model import AgentConfig, BackendConfig
from massgen.models.base import Model, Options
from massgen.models.factory import open_model
from massgen.models.lmstudio import find_lms, served
from massgen.models.local import LocalModel
from massgen.models.pinned import QWEN_CODER, models_folder


async def open_models(agents: Sequence[AgentConfig], stack: AsyncExitStack) -> dict[str, Model]:
    """A model by agent id; the stack closes them. Raises ConfigError, ModelError."""
    pinned = models_folder(os.environ) / QWEN_CODER.file_name
    local: dict[Path, LocalModel] = {}
    for weights in dict.fromkeys(agent.backend.weights or pinned for agent in agents if agent.backend.type == "local"):
        local[weights] = await stack.enter_async_context(LocalModel.open(weights))
    found: dict[str, Model] = {}
    for agent in agents:
        backend = agent.backend
        if backend.type == "lmstudio":
            await stack.enter_async_context(served(backend.model, backend.base_url, find_lms(os.environ)))
        found[agent.id] = await stack.enter_async_context(
            open_model(
                backend=backend.type,
                model=backend.model,
                base_url=backend.base_url,
                api_key=backend.api_key.reveal() if backend.api_key else "",
                key_source=backend.key_source,
                api_version=backend.api_version,
                options=options_of(backend),
                script=backend.script,
                local=local.get(backend.weights or pinned),
            )
        )
    return found


def options_of(backend: BackendConfig) -> Options:
    """How the config wants this model to be asked."""
    return Options(
        temperature=backend.temperature,
        top_p=backend.top_p,
        max_tokens=backend.max_tokens,
        verbosity=backend.verbosity,
        effort=backend.effort,
        summary=backend.summary,
        thinking_tokens=backend.thinking_tokens,
        hosted=backend.hosted,
        search=backend.search,
        extra_body=backend.extra_body,
    )
