"""Every backend that asks a server, by its name in a config: one suite, over real HTTP.

What one protocol alone has is in `test_models_habits.py`, what a provider may do wrong beside these in `test_models_failures.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

from massgen.config.backends import BackendType
from massgen.errors import ContextOverflow, ModelError, ModelRefusedKey, ModelUnavailable, PicturesRefused, RateLimited
from massgen.messages import Image, Message, Piece, Request, ToolCall, ToolResult, Usage
from massgen.models import Model, open_model
from tests.support.adapters import ASK, BACKENDS, KEY, PIXEL, SHELL, failure
from tests.support.fake_provider import FakeProvider
from tests.support.fake_wires import SCRIPTS, TWO_CALLS, WORDS

CALLS = (
    ToolCall(id="call_shell", name="shell", args={"command": "ls -l"}),
    ToolCall(id="call_read_file", name="read_file", args={"path": "a.py"}),
)
CALLED = (Message(role="assistant", calls=CALLS),)
RESULTS = Message(
    role="tool", results=(ToolResult(call_id="call_shell", text="a.py b.py"), ToolResult(call_id="call_read_file", text="pass"))
)
SEALED = ("b3BhcXVl", "c2lnbmVk")
"""What providers want back unread: reasoning that they encrypted, or its signature."""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> BackendType:
    return request.param


def opened(backend: BackendType, provider: FakeProvider, **more: Any) -> AbstractAsyncContextManager[Model]:
    return open_model(backend=backend, model="m", base_url=provider.url, api_key=KEY, key_source="MY_KEY", **more)


@pytest.fixture
async def model(backend: BackendType, provider: FakeProvider) -> AsyncIterator[Model]:
    async with opened(backend, provider) as opening:
        yield opening


async def test_text(model: Model) -> None:
    """In pieces, in order, none lost; input counts what was cached and output the reasoning, whatever the provider's own rule."""
    pieces: list[Piece] = []
    reply = await model.complete(ASK, on_piece=pieces.append)
    assert [piece.text for piece in pieces if piece.kind == "text"] == WORDS
    assert (reply.text, reply.calls, reply.stop) == ("".join(WORDS), (), "end")
    assert reply.usage == Usage(input_tokens=120, cached_tokens=100, output_tokens=30, reasoning_tokens=12)


async def test_parallel_tools(model: Model, provider: FakeProvider) -> None:
    """Two calls whose pieces come interleaved stay two, in order; both results are in the next request."""
    provider.mode = "calls"
    reply = await model.complete(ASK)
    assert (reply.calls, reply.stop) == (CALLS, "tools")
    await model.complete(Request(messages=(*ASK.messages, reply.as_message(), RESULTS), tools=(SHELL,)))
    sent = str(provider.requests[1])
    assert all(text in sent for text in ("ls -l", "a.py b.py", "pass"))
    assert all(sent.index(name) < sent.index(text) for (name, _), text in zip(TWO_CALLS, ("a.py b.py", "pass"), strict=True))


async def test_reasoning_is_kept_across_turns(model: Model, provider: FakeProvider) -> None:
    """It comes as pieces of its own kind, is no part of the text, and its seal goes back with the call that it led to."""
    provider.mode = "thinking"
    pieces: list[Piece] = []
    reply = await model.complete(ASK, on_piece=pieces.append)
    assert "".join(piece.text for piece in pieces if piece.kind == "reasoning") == reply.reasoning == "Let me see."
    assert (reply.text, reply.calls) == ("".join(WORDS), CALLS[:1])
    await model.complete(Request(messages=(*ASK.messages, reply.as_message(), RESULTS), tools=(SHELL,)))
    assert any(seal in str(provider.requests[1]) for seal in SEALED)


async def test_a_picture(model: Model, provider: FakeProvider) -> None:
    """It goes out with the text or the result it belongs to, as bytes in the request: nobody fetches anything."""
    asked = Message(role="user", text="What is it?", images=(PIXEL,))
    shown = ToolResult(call_id="call_shell", text="b.jpg", images=(Image(media_type="image/jpeg", data=b"jpeg"),))
    await model.complete(Request(messages=(asked, *CALLED, Message(role="tool", results=(shown, *RESULTS.results[1:])))))
    sent = str(provider.requests[0])
    assert sent.index("What is it?") < sent.index("b.jpg")
    assert all(part in sent for part in ("iVBO", "image/png", "anBlZw", "image/jpeg", "pass"))


async def test_a_picture_refused(model: Model, provider: FakeProvider) -> None:
    """It is told as such, so that the conversation can go on without."""
    provider.mode = "refuses_pictures"
    with pytest.raises(PicturesRefused, match="does not support image"):
        await model.complete(Request(messages=(Message(role="user", text="What is it?", images=(PIXEL,)),)))
    assert (await model.complete(ASK)).text == "".join(WORDS)


@pytest.mark.parametrize("mode", ["length", "refusal"])
async def test_why_a_reply_stopped(model: Model, provider: FakeProvider, mode: str) -> None:
    """One that is cut off or refused is not taken for a finished one."""
    provider.mode = mode
    assert (await model.complete(ASK)).stop == mode


FAILURES: dict[str, tuple[type[ModelError], str, float | None, bool]] = {
    "rate_limit": (RateLimited, "7 s", 7.0, True),
    "server_error": (ModelUnavailable, "500", None, True),
    "disconnect": (ModelUnavailable, "closed the connection", None, False),
    "overflow": (ContextOverflow, "205000", None, True),
    "wrong_key": (ModelRefusedKey, "MY_KEY", None, True),
}
"""What it is, what its message names, how long to wait, and whether it cost nothing."""


@pytest.mark.parametrize("mode", FAILURES)
async def test_a_failure(model: Model, provider: FakeProvider, mode: str) -> None:
    """By its meaning, with the wait that the provider names, and on the bill only if a reply had begun; the key is not shown."""
    kind, named, wait_s, unbilled = FAILURES[mode]
    error = await failure(model, provider, mode)
    assert type(error) is kind
    assert named in str(error)
    assert (error.retry_after_s, error.unbilled) == (wait_s, unbilled)


async def test_a_timeout(backend: BackendType, provider: FakeProvider) -> None:
    """A stream in which nothing more comes ends with an error that says how long it was silent."""
    async with opened(backend, provider, silence_s=0.2) as model:
        error = await failure(model, provider, "hang")
    assert isinstance(error, ModelUnavailable)
    assert "0.2 s" in str(error)


async def test_cancelled_in_mid_stream(model: Model, provider: FakeProvider) -> None:
    """The connection is closed, seen from the server's side."""
    provider.mode = "hang"
    with anyio.CancelScope() as scope:
        await model.complete(ASK, on_piece=lambda _: scope.cancel())
    assert scope.cancelled_caught
    assert await anyio.to_thread.run_sync(provider.hung_up.wait, 5)


async def test_streaming_refused(model: Model, provider: FakeProvider) -> None:
    """One answer instead, with all that a stream has: reasoning, calls, tokens. The next call does not try again."""
    provider.mode = "refuses_streaming"
    provider.think = lambda _: SCRIPTS["thinking"]
    pieces: list[Piece] = []
    reply = await model.complete(ASK, on_piece=pieces.append)
    assert "".join(piece.text for piece in pieces if piece.kind == "text") == reply.text == "".join(WORDS)
    assert (reply.calls, reply.stop, reply.reasoning) == (CALLS[:1], "tools", "Let me see.")
    assert (reply.usage.input_tokens, reply.usage.reasoning_tokens) == (120, 12)
    await model.complete(Request(messages=(*ASK.messages, reply.as_message(), RESULTS), tools=(SHELL,)))
    assert [bool(request.get("stream")) for request in provider.requests] == [True, False, False]
    assert any(seal in str(provider.requests[2]) for seal in SEALED)
