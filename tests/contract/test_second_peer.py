"""llama.cpp's own server, by people who never saw our adapters, as the other end of three of our protocols.

The model is one of ours (`tests/support/tiny_model.py`): what it says is known, so what a protocol makes of it can be checked,
and no weights are needed. What this server never does (refuse to stream, drip, hang up) is tried on a fake one: `test_models.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from massgen.errors import ContextOverflow, ModelRefusedKey, PicturesRefused
from massgen.messages import Image, Message, Piece, Request, ToolCall, ToolResult, ToolSpec
from massgen.models import LocalModel
from massgen.models.chat import ChatModel
from massgen.models.claude import ClaudeModel
from massgen.models.openai_sdk import OpenAIClient
from massgen.models.responses import ResponsesModel
from massgen.models.translate import Endpoint
from tests.support.tiny_model import FOR_EVER, call, tiny_model

Adapter = ChatModel | ResponsesModel | ClaudeModel
PROTOCOLS = ("chat", "responses", "messages")
PLAIN = "A tiny model says all that it knows."
REPLIES = {
    "plain": PLAIN,
    "one": call("shell", command="ls -l"),
    "two": "I look twice." + call("shell", command="uname -a") + "\n" + call("read_file", path="notes.md"),
    "seen": "There are three files in it.",
    "thought": "<think>\nThree is the number of them.\n</think>\n\nIt is three.",
    "endless": f"again and again, until somebody stops it{FOR_EVER}",
}
CHOOSE = (
    "{% set said = messages[-1].content | string %}"
    "{% if messages[-1].role == 'tool' %}seen{% elif 'twice' in said %}two{% elif tools %}one"
    "{% elif 'think' in said %}thought{% elif 'forever' in said %}endless{% else %}plain{% endif %}"
)
OBJECT = {"type": "object", "properties": {"command": {"type": "string"}, "path": {"type": "string"}}}
TOOLS = (
    ToolSpec(name="shell", description="Run a command.", parameters=OBJECT),
    ToolSpec(name="read_file", description="Read a file.", parameters=OBJECT),
)


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoint]:
    """The server, started as a run does it, for all of this file."""
    pytest.importorskip("xllamacpp")
    path = tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", REPLIES, CHOOSE)
    async with LocalModel.open(path, context=4096, linger_s=0.1) as opened:
        yield opened.endpoint


@asynccontextmanager
async def speaking(protocol: str, served: Endpoint, key: str = "") -> AsyncIterator[Adapter]:
    """One of our adapters, pointed at it."""
    given = {"model": "tiny", "base_url": served.base_url, "api_key": key or served.key, "key_source": "TINY_KEY"}
    client: Callable[[], OpenAIClient] = lambda: OpenAIClient(**given, loopback=True)  # noqa: E731
    adapter: Adapter
    match protocol:
        case "chat":
            adapter = ChatModel(client())
        case "responses":
            adapter = ResponsesModel(client())
        case _:
            adapter = ClaudeModel(**given)
    try:
        yield adapter
    finally:
        await adapter.aclose()


def asking(text: str, *more: Message, tools: tuple[ToolSpec, ...] = (), max_tokens: int = 500) -> Request:
    return Request(messages=(Message(role="user", text=text), *more), tools=tools, max_tokens=max_tokens)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_reply_is_the_same_streamed_and_whole(protocol: str, served: Endpoint) -> None:
    """In pieces, in order, with the server's own count; and without streaming, as after a refusal of it."""
    async with speaking(protocol, served) as model:
        pieces: list[Piece] = []
        reply = await model.complete(asking("Hello?"), on_piece=pieces.append)
        assert (reply.text, reply.stop) == (PLAIN, "end")
        assert [piece.text for piece in pieces if piece.text] != [PLAIN]
        assert "".join(piece.text for piece in pieces) == PLAIN
        assert reply.usage.input_tokens > 0 < reply.usage.output_tokens
        if isinstance(model, ClaudeModel):
            model._streams = False
        else:
            model._dialect = replace(model._dialect, streams=False)  # type: ignore[arg-type]
        whole = await model.complete(asking("Hello?"))
        assert (whole.text, whole.usage.output_tokens) == (PLAIN, reply.usage.output_tokens)
        calls = (await model.complete(asking("Hello?", tools=TOOLS))).calls
        assert [(made.name, dict(made.args)) for made in calls] == [("shell", {"command": "ls -l"})]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_call_and_its_result_are_one_conversation(protocol: str, served: Endpoint) -> None:
    """Our form of a turn is one that the server takes back: call, result, answer; what it has read it does not read again."""
    async with speaking(protocol, served) as model:
        reply = await model.complete(asking("Hello?", tools=TOOLS))
        (made,) = reply.calls
        assert (made.name, dict(made.args), reply.stop) == ("shell", {"command": "ls -l"}, "tools")
        result = Message(role="tool", results=(ToolResult(call_id=made.id, text="a b c"),))
        after = await model.complete(asking("Hello?", reply.as_message(), result, tools=TOOLS))
        assert after.text == REPLIES["seen"]
        assert after.usage.cached_tokens > 0.8 * reply.usage.input_tokens


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_two_calls_at_once_stay_two(protocol: str, served: Endpoint) -> None:
    """With the text before them, in order, each with an id of its own; both results go back."""
    async with speaking(protocol, served) as model:
        reply = await model.complete(asking("Look twice.", tools=TOOLS))
        assert reply.text == "I look twice."
        assert [(made.name, dict(made.args)) for made in reply.calls] == [
            ("shell", {"command": "uname -a"}),
            ("read_file", {"path": "notes.md"}),
        ]
        assert len({made.id for made in reply.calls}) == 2
        results = tuple(ToolResult(call_id=made.id, text="x") for made in reply.calls)
        after = await model.complete(
            asking("Look twice.", reply.as_message(), Message(role="tool", results=results), tools=TOOLS)
        )
        assert after.text == REPLIES["seen"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_thinking_is_no_answer_and_goes_back(protocol: str, served: Endpoint) -> None:
    """Reasoning comes beside the text, and the turn that holds it is one that the server takes back."""
    async with speaking(protocol, served) as model:
        pieces: list[Piece] = []
        reply = await model.complete(asking("Please think."), on_piece=pieces.append)
        assert "Three is the number" in reply.reasoning
        assert reply.text.strip() == "It is three."
        assert "Three is the number" in "".join(piece.text for piece in pieces if piece.kind == "reasoning")
        after = await model.complete(asking("Please think.", reply.as_message(), Message(role="user", text="Go on.")))
        assert after.text == PLAIN


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_does_not_fit_or_is_not_allowed_is_told_by_its_meaning(protocol: str, served: Endpoint) -> None:
    """Too long a conversation, a wrong key by its variable, a picture for a model that takes none; and then it works."""
    async with speaking(protocol, served) as model:
        with pytest.raises(ContextOverflow, match="4096"):
            await model.complete(asking("x" * 9000))
        picture = Message(role="user", text="What is it?", images=(Image(media_type="image/png", data=b"\x89PNG"),))
        with pytest.raises(PicturesRefused):
            await model.complete(Request(messages=(picture,), max_tokens=5))
        assert (await model.complete(asking("Hello?"))).text == PLAIN
    async with speaking(protocol, served, key="sk-wrong-0123456789") as stranger:
        with pytest.raises(ModelRefusedKey, match="TINY_KEY") as told:
            await stranger.complete(asking("Hello?"))
        assert "0123456789" not in str(told.value)


@pytest.mark.parametrize("protocol", ["chat", "messages"])
async def test_a_reply_that_was_cut_off_is_not_taken_for_whole(protocol: str, served: Endpoint) -> None:
    """By the limit of tokens. On Responses this server calls such a reply completed, so nobody can tell."""
    async with speaking(protocol, served) as model:
        reply = await model.complete(asking("Hello?", max_tokens=2))
        assert reply.stop == "length"
        assert PLAIN.startswith(reply.text)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_cancelled_call_frees_the_server(protocol: str, served: Endpoint) -> None:
    """It has one slot: whoever leaves in mid-reply leaves it to the next one."""
    async with speaking(protocol, served) as model:
        with anyio.CancelScope() as scope:
            await model.complete(asking("Talk forever.", max_tokens=3900), on_piece=lambda _: scope.cancel())
        assert scope.cancelled_caught
        with anyio.fail_after(20):
            assert (await model.complete(asking("Hello?"))).text == PLAIN


async def test_broken_arguments_of_an_earlier_call_do_not_break_the_next(served: Endpoint) -> None:
    """A server that parses the history gets JSON whatever its model once wrote."""
    async with speaking("chat", served) as model:
        broken = ToolCall(id="c1", name="shell", args={}, bad_args='{"command": "ls')
        turns = (Message(role="assistant", calls=(broken,)), Message(role="tool", results=(ToolResult(call_id="c1", text="no"),)))
        assert (await model.complete(asking("Hello?", *turns, tools=TOOLS))).text == REPLIES["seen"]
