"""The adapters of the four protocols, pointed at a provider on this machine, and what they are asked."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

from massgen.config.backends import TABLE, BackendType
from massgen.errors import ModelError
from massgen.messages import Image, Message, Request, ToolResult, ToolSpec
from massgen.models import Model, Options
from massgen.models.chat import ChatModel
from massgen.models.claude import ClaudeModel
from massgen.models.gemini import GeminiModel
from massgen.models.openai_sdk import OpenAIClient
from massgen.models.responses import ResponsesModel
from tests.support.fake_provider import FakeProvider

KEY = "sk-test-0123456789abcdef"
SHELL = ToolSpec(name="shell", description="Run a command.", parameters={"type": "object", "properties": {}})
ASK = Request(messages=(Message(role="system", text="Be brief."), Message(role="user", text="Hello?")), tools=(SHELL,))
RESULT = Message(role="tool", results=(ToolResult(call_id="call_shell", text="a.py"),))

Open = Callable[..., Model]
PLAIN = Options()
PIXEL = Image(media_type="image/png", data=b"\x89PNG")
BACKENDS: list[BackendType] = [kind for kind, row in TABLE.items() if row.protocol not in ("embedded", "recorded")]
"""Those that speak to a server."""


def chat(provider: FakeProvider, *, options: Options = PLAIN, **more: Any) -> ChatModel:
    """The Chat Completions adapter, pointed at the fake."""
    given = {"model": "m", "base_url": f"{provider.url}/v1", "api_key": KEY, "key_source": "CHAT_KEY"} | more
    return ChatModel(OpenAIClient(**given), options=options)


def responses(provider: FakeProvider, *, options: Options = PLAIN, **more: Any) -> ResponsesModel:
    """The Responses adapter, pointed at the fake."""
    given = {"model": "m", "base_url": f"{provider.url}/v1", "api_key": KEY, "key_source": "OPENAI_KEY"} | more
    return ResponsesModel(OpenAIClient(**given), options=options)


def azure(provider: FakeProvider, **more: Any) -> ResponsesModel:
    """The same as Azure has it."""
    return responses(provider, **{"api_version": "2026-01-01", "key_source": "AZURE_KEY"} | more)


def claude(provider: FakeProvider, **more: Any) -> ClaudeModel:
    """The Messages adapter, pointed at the fake."""
    return ClaudeModel(**{"model": "m", "base_url": provider.url, "api_key": KEY, "key_source": "CLAUDE_KEY"} | more)


def gemini(provider: FakeProvider, **more: Any) -> GeminiModel:
    """The generateContent adapter, pointed at the fake."""
    return GeminiModel(**{"model": "m", "base_url": provider.url, "api_key": KEY, "key_source": "GEMINI_KEY"} | more)


ADAPTERS = [chat, responses, azure, claude, gemini]


async def failure(model: Model, provider: FakeProvider, mode: str) -> ModelError:
    """The error of a call in this mode. No error may show the key, not even in its traceback."""
    provider.mode = mode
    with pytest.raises(ModelError) as caught:
        await model.complete(ASK)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert "sk-pro" not in str(caught.value)
    return caught.value
