"""What every adapter promises, tried over real HTTP against a provider that fails on purpose."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import anyio
import pytest

from massgen.config.backends import TABLE, BackendType
from massgen.errors import BadReply, ConfigError, ContextOverflow, ModelError, ModelRefusedKey, ModelUnavailable, RateLimited
from massgen.messages import Image, Message, Piece, Request, ToolCall, ToolResult, ToolSpec, Usage
from massgen.models import Model, Options, open_model
from massgen.models.chat import ChatModel
from massgen.models.claude import MAX_TOKENS, ClaudeModel
from massgen.models.gemini import GeminiModel
from massgen.models.openai_sdk import OpenAIClient
from massgen.models.responses import ResponsesModel
from tests.support.fake_provider import (
    CUT_CALL,
    DETAIL,
    REASONING,
    REDACTED,
    THINKING,
    WORDS,
    FakeProvider,
    Script,
    fake_provider,
)

KEY = "sk-test-0123456789abcdef"
SHELL = ToolSpec(name="shell", description="Run a command.", parameters={"type": "object", "properties": {}})
ASK = Request(messages=(Message(role="system", text="Be brief."), Message(role="user", text="Hello?")), tools=(SHELL,))

Open = Callable[..., Model]
PLAIN = Options()
KEPT = {"cache_control": {"type": "ephemeral"}}
PIXEL = Image(media_type="image/png", data=b"\x89PNG")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider on this machine."""
    with fake_provider() as provider:
        yield provider


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


@pytest.fixture(params=ADAPTERS, ids=lambda opener: opener.__name__)
def opener(request: pytest.FixtureRequest) -> Open:
    """Each adapter in turn."""
    return request.param


@pytest.fixture
async def model(opener: Open, provider: FakeProvider) -> AsyncIterator[Model]:
    """Each adapter in turn, opened and closed."""
    opened = opener(provider)
    yield opened
    await opened.aclose()


async def failure(model: Model, provider: FakeProvider, mode: str) -> ModelError:
    """The error of a call in this mode. No error may show the key, not even in its traceback."""
    provider.mode = mode
    with pytest.raises(ModelError) as caught:
        await model.complete(ASK)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert "sk-pro" not in str(caught.value)
    return caught.value


async def test_text_that_arrives_in_pieces_is_not_reordered_or_lost(model: Model) -> None:
    """The pieces of text given to `on_piece`, joined, are the reply's text."""
    pieces: list[Piece] = []
    reply = await model.complete(ASK, on_piece=pieces.append)
    assert [piece.text for piece in pieces if piece.kind == "text"] == WORDS
    assert reply.text == "".join(WORDS)
    assert reply.calls == ()
    assert reply.stop == "end"


async def test_tokens_are_not_counted_by_two_rules(model: Model) -> None:
    """Input includes what was cached, and reasoning is part of output, whatever the provider's own rule."""
    reply = await model.complete(ASK)
    assert reply.usage == Usage(input_tokens=120, cached_tokens=100, output_tokens=30, reasoning_tokens=12)


async def test_a_call_in_pieces_is_reassembled(model: Model, provider: FakeProvider) -> None:
    """Name, id and arguments come out whole, beside the text."""
    provider.mode = "call"
    reply = await model.complete(ASK)
    assert reply.calls == (ToolCall(id="call_shell", name="shell", args={"command": "ls -l"}),)
    assert reply.text == "Looking."
    assert reply.stop == "tools"


async def test_parallel_calls_are_not_mixed_up(model: Model, provider: FakeProvider) -> None:
    """Two calls whose pieces come interleaved stay two calls, in order."""
    provider.mode = "calls"
    reply = await model.complete(ASK)
    assert [(call.name, dict(call.args)) for call in reply.calls] == [
        ("shell", {"command": "ls -l"}),
        ("read_file", {"path": "a.py"}),
    ]


@pytest.mark.parametrize("opener", [chat, responses, azure, claude], ids=lambda opener: opener.__name__)
async def test_half_a_file_is_not_written_as_if_it_were_whole(opener: Open, provider: FakeProvider) -> None:
    """Arguments cut off by the token limit are not guessed: the raw text is kept, `args` is empty. Gemini sends them whole."""
    model = opener(provider)
    provider.mode = "cut_call"
    reply = await model.complete(ASK)
    await model.aclose()
    assert reply.calls[0].args == {}
    assert reply.calls[0].bad_args == CUT_CALL[0][1]
    assert reply.stop == "length"


@pytest.mark.parametrize("mode", ["length", "refusal"])
async def test_why_a_reply_stopped_is_told(model: Model, provider: FakeProvider, mode: str) -> None:
    """A reply that is cut off or refused is not taken for a finished one."""
    provider.mode = mode
    assert (await model.complete(ASK)).stop == mode


@pytest.mark.parametrize(
    ("mode", "kind", "named"),
    [
        ("rate_limit", RateLimited, "7 s"),
        ("rate_limit_with_billing_hint", RateLimited, "slow down"),
        ("server_error", ModelUnavailable, "500"),
        ("overloaded", ModelUnavailable, "529"),
        ("error_in_stream", ModelUnavailable, "Overloaded"),
        ("disconnect", ModelUnavailable, "closed the connection"),
        ("truncated", ModelUnavailable, "in the middle"),
        ("overflow", ContextOverflow, "205000"),
        ("garbage", BadReply, "protocol"),
        ("strange", BadReply, "protocol"),
        ("html", BadReply, "base_url"),
        ("unknown_model", ModelError, "model: nothing-4"),
        ("bad_request", ModelError, "tools.0.name"),
        ("quota", ModelError, "used up"),
    ],
)
async def test_a_failure_is_told_by_its_meaning(
    model: Model, provider: FakeProvider, mode: str, kind: type[ModelError], named: str
) -> None:
    """Each failure becomes the one error that says what to do; only those that may pass are retryable."""
    error = await failure(model, provider, mode)
    assert type(error) is kind
    assert named in str(error)
    assert provider.url in str(error)


@pytest.mark.parametrize(
    ("mode", "wait_s", "unbilled"),
    [("rate_limit", 7.0, True), ("server_error", None, True), ("overflow", None, True), ("disconnect", None, False)],
)
async def test_a_failure_says_how_long_to_wait_and_whether_it_costs(
    model: Model, provider: FakeProvider, mode: str, wait_s: float | None, unbilled: bool
) -> None:
    """What a provider names is kept as a number; only a reply that had begun may be on the bill."""
    error = await failure(model, provider, mode)
    assert (error.retry_after_s, error.unbilled) == (wait_s, unbilled)


@pytest.mark.parametrize("words", [["Your key: ", KEY], ["Your key: ", KEY[:9], KEY[9:]]])
async def test_a_server_that_repeats_the_key_is_not_listened_to(model: Model, provider: FakeProvider, words: list[str]) -> None:
    """A reply with the key in it, also in pieces, would reach the log and the containers: an error that does not show it."""
    provider.think = lambda _: Script(words=words)
    error = await failure(model, provider, "text")
    assert isinstance(error, BadReply)
    assert "repeats the key" in str(error)


async def test_a_flood_from_a_provider_does_not_fill_the_memory(model: Model, provider: FakeProvider) -> None:
    """A reply that never ends is cut off at a limit that no honest one comes near."""
    provider.mode = "flood"
    with pytest.raises(BadReply, match="no end"):
        await model.complete(ASK)


@pytest.mark.parametrize("mode", ["wrong_key", "no_permission"])
async def test_a_refused_key_names_its_variable_and_is_not_shown(model: Model, provider: FakeProvider, mode: str) -> None:
    """The message says where the key came from, and nothing of the key itself, though the provider quotes it."""
    error = await failure(model, provider, mode)
    assert isinstance(error, ModelRefusedKey)
    assert model.key_source in str(error)


async def test_a_server_that_cannot_stream_is_asked_again_without(model: Model, provider: FakeProvider) -> None:
    """Refused streaming falls back to one answer, and the next call does not try again."""
    provider.mode = "refuses_streaming"
    pieces: list[Piece] = []
    reply = await model.complete(ASK, on_piece=pieces.append)
    assert reply.text == "".join(piece.text for piece in pieces) == "".join(WORDS)
    assert reply.usage.input_tokens == 120
    await model.complete(ASK)
    assert [bool(request.get("stream")) for request in provider.requests] == [True, False, False]


async def test_an_answer_that_was_paid_for_is_not_asked_twice(model: Model, provider: FakeProvider) -> None:
    """A server that ignores the wish to stream has answered: its one JSON is the reply."""
    provider.mode = "ignores_streaming"
    reply = await model.complete(ASK)
    assert reply.text == "".join(WORDS)
    assert len(provider.requests) == 1


async def test_a_retry_is_the_relays_business(model: Model, provider: FakeProvider) -> None:
    """The SDK does not retry behind our back: one call, one request."""
    await failure(model, provider, "server_error")
    await failure(model, provider, "rate_limit")
    assert len(provider.requests) == 2


async def test_a_silent_server_does_not_hold_us_for_ever(opener: Open, provider: FakeProvider) -> None:
    """A stream in which nothing more comes ends with an error that says how long it was silent."""
    model = opener(provider, silence_s=0.2)
    error = await failure(model, provider, "hang")
    await model.aclose()
    assert isinstance(error, ModelUnavailable)
    assert "0.2 s" in str(error)


async def test_an_endpoint_that_is_down_is_named(opener: Open) -> None:
    """No connection: the URL and what to look at."""
    with fake_provider() as gone:
        url = gone.url
    model = opener(gone)
    with pytest.raises(ModelUnavailable, match=r"cannot be reached.*base_url") as caught:
        await model.complete(ASK)
    await model.aclose()
    assert url in str(caught.value)


async def test_a_cancelled_call_leaves_no_connection(model: Model, provider: FakeProvider) -> None:
    """Cancelling in the middle of a stream closes it, seen from the server's side."""
    provider.mode = "hang"
    started = anyio.Event()
    async with anyio.create_task_group() as group:

        async def call() -> None:
            await model.complete(ASK, on_piece=lambda _: started.set())

        group.start_soon(call)
        with anyio.fail_after(5):
            await started.wait()
        group.cancel_scope.cancel()
    assert await anyio.to_thread.run_sync(provider.hung_up.wait, 5)


async def test_our_own_mistake_is_not_blamed_on_the_provider(model: Model) -> None:
    """An error in `on_piece` comes out as it is."""

    def broken(_: Piece) -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        await model.complete(ASK, on_piece=broken)


async def test_variables_of_the_sdk_do_not_redirect_a_key(
    opener: Open, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """URL, key, organisation, project and headers come from the config alone."""
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/elsewhere")
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "from-the-environment")
    for name in ("ANTHROPIC_AUTH_TOKEN", "GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "from-the-environment")
    for name in ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.setenv(name, "X-Stray: from-the-environment")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    model = opener(provider)
    await model.complete(ASK)
    await model.aclose()
    headers = provider.headers[0]
    assert KEY in (
        headers.get("authorization", "").removeprefix("Bearer "),
        headers.get("x-goog-api-key"),
        headers.get("api-key"),
    )
    assert "from-the-environment" not in str(headers)


async def test_a_picture_is_not_lost(model: Model, provider: FakeProvider) -> None:
    """An image goes out with the text it belongs to, as bytes in the request: nobody fetches anything."""
    await model.complete(Request(messages=(Message(role="user", text="What is it?", images=(PIXEL,)),)))
    sent = str(provider.requests[0])
    assert "iVBORw" in sent or "iVBO" in sent
    assert "What is it?" in sent
    assert "image/png" in sent


async def test_what_a_model_thought_is_shown_and_is_no_answer(model: Model, provider: FakeProvider) -> None:
    """Reasoning comes as pieces of its own kind and beside the text, never in it."""
    provider.mode = "thinking"
    pieces: list[Piece] = []
    reply = await model.complete(ASK, on_piece=pieces.append)
    assert "".join(piece.text for piece in pieces if piece.kind == "reasoning") == reply.reasoning == "Let me see."
    assert reply.text == "".join(WORDS)
    assert "shell" in "".join(piece.text for piece in pieces if piece.kind == "call")


async def test_a_transcript_goes_out_whole(model: Model, provider: FakeProvider) -> None:
    """Roles, calls and results of a longer exchange reach the provider, broken arguments as valid JSON."""
    calls = (ToolCall(id="1", name="shell", args={"command": "ls"}), ToolCall(id="2", name="shell", args={}, bad_args="{oops"))
    results = (ToolResult(call_id="1", text="a.py"), ToolResult(call_id="2", text="no JSON", ok=False))
    messages = (
        *ASK.messages,
        Message(role="assistant", text="Looking.", calls=calls),
        Message(role="tool", results=results),
        Message(role="user", text="Go on."),
    )
    await model.complete(Request(messages=messages, tools=(SHELL,), max_tokens=77))
    sent = provider.requests[0]
    text = str(sent)
    assert all(part in text for part in ("Be brief.", "Looking.", "a.py", "no JSON", "Go on.", "malformed_arguments"))
    limits = (sent.get("max_tokens"), sent.get("max_output_tokens"), sent.get("generationConfig", {}).get("maxOutputTokens"))
    assert 77 in limits
    assert len(sent["tools"]) == 1


RESULT = Message(role="tool", results=(ToolResult(call_id="call_shell", text="a.py"),))


@pytest.mark.parametrize(
    ("opener", "returned"),
    [
        (chat, [DETAIL]),
        (responses, [REASONING]),
        (gemini, [{"functionCall": {"id": "call_shell", "name": "shell", "args": {"command": "ls -l"}}}]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_a_provider_wants_back_comes_back(opener: Open, provider: FakeProvider, returned: list[Any]) -> None:
    """Encrypted reasoning, details and signatures are in the next request as they came."""
    model = opener(provider)
    provider.mode = "thinking"
    reply = await model.complete(ASK)
    await model.complete(Request(messages=(*ASK.messages, reply.as_message(), RESULT), tools=(SHELL,)))
    await model.aclose()
    sent = provider.requests[1]
    if opener is chat:
        assert sent["messages"][2]["reasoning_details"] == returned
    elif opener is responses:
        assert sent["input"][1] == returned[0]
        assert sent["store"] is False
    else:
        call = sent["contents"][1]["parts"][-1]
        assert call == {**returned[0], "thoughtSignature": "c2lnbmVk"}


async def test_thoughts_before_a_call_go_back_where_they_are_taken(provider: FakeProvider) -> None:
    """Servers that show them as text want them with the call that they led to, or refuse the next request; others refuse them."""
    model = chat(provider)
    provider.mode = "thinking_plainly"
    reply = await model.complete(ASK)
    turns = Request(messages=(*ASK.messages, reply.as_message(), RESULT), tools=(SHELL,))
    await model.complete(turns)
    assert provider.requests[-1]["messages"][2]["reasoning_content"] == "Let me see."
    provider.mode = "refuses_thoughts"
    for _ in range(2):
        assert (await model.complete(turns)).text == "".join(WORDS)
    await model.aclose()
    assert ["reasoning_content" in str(request) for request in provider.requests[2:]] == [True, False, False]


async def test_the_providers_own_tools_run_only_when_asked_for(opener: Open, provider: FakeProvider) -> None:
    """Without the config's word no request names a hosted tool; with it, exactly those named."""
    plain = opener(provider)
    await plain.complete(ASK)
    await plain.aclose()
    assert not any(
        word in str(provider.requests[0]) for word in ("web_search", "googleSearch", "code_interpreter", "search_param")
    )
    if opener is chat:
        asking = ChatModel(
            OpenAIClient(model="m", base_url=f"{provider.url}/v1", api_key=KEY),
            options=Options(hosted=frozenset({"web_search"}), search={"max_results": 3}),
            xai_search=True,
        )
    else:
        asking = opener(provider, options=Options(hosted=frozenset({"web_search"})))
    await asking.complete(ASK)
    await asking.aclose()
    assert any(word in str(provider.requests[1]) for word in ("web_search", "googleSearch", "search_parameters"))


async def test_azure_is_asked_with_its_own_header_and_version(provider: FakeProvider) -> None:
    """The key travels as `api-key`, not as a bearer; the version is in the address."""
    async with open_model(
        backend="azure_openai", model="dep", base_url=provider.url, api_key=KEY, api_version="2026-01-01"
    ) as model:
        await model.complete(ASK)
    assert provider.headers[0]["api-key"] == KEY
    assert "authorization" not in provider.headers[0]
    assert provider.paths[0] == "/openai/v1/responses?api-version=2026-01-01"


# -- one provider's own habits ---------------------------------------------------------------------------------


async def test_signed_thinking_goes_back_unchanged(provider: FakeProvider) -> None:
    """Thinking blocks, signature and redacted ones included, are echoed as they came, before the call they led to."""
    model = claude(provider)
    provider.mode = "thinking"
    reply = await model.complete(ASK)
    result = Message(role="tool", results=(ToolResult(call_id="call_shell", text="a.py"),))
    await model.complete(Request(messages=(*ASK.messages, reply.as_message(), result)))
    await model.aclose()
    _, echoed, results = provider.requests[1]["messages"]
    call = {"type": "tool_use", "id": "call_shell", "name": "shell", "input": {"command": "ls -l"}}
    assert echoed["content"] == [THINKING, REDACTED, {"type": "text", "text": "".join(WORDS)}, call]
    told = {"type": "tool_result", "tool_use_id": "call_shell", "content": "a.py", "is_error": False}
    assert results["content"] == [{**told, **KEPT}]


async def test_claude_is_not_paid_for_reading_a_conversation_anew_at_each_call(provider: FakeProvider) -> None:
    """It keeps nothing unasked: tools, system text and the end of the conversation are marked, and what is kept is counted."""
    model = claude(provider)
    provider.mode = "call"
    reply = await model.complete(ASK)
    turns = (*ASK.messages, reply.as_message(), RESULT, Message(role="user", text="Go on."))
    await model.complete(Request(messages=turns, tools=(SHELL, replace(SHELL, name="other"))))
    await model.aclose()
    assert reply.cache_written_tokens == 5
    sent = provider.requests[1]
    marked = [block for part in ("tools", "system") for block in sent[part] if "cache_control" in block]
    marked += [block for message in sent["messages"] for block in message["content"] if "cache_control" in block]
    assert [block.get("name") or block["text"] for block in marked] == ["other", "Be brief.", "Go on."]


async def test_what_claude_no_longer_takes_is_left_out(provider: FakeProvider) -> None:
    """A temperature does not become an error 400; the limit that the API wants is always there."""
    model = claude(provider)
    await model.complete(Request(messages=ASK.messages, temperature=0.3, seed=4))
    await model.aclose()
    sent = provider.requests[0]
    assert "temperature" not in sent
    assert "seed" not in sent
    assert sent["max_tokens"] == MAX_TOKENS
    assert sent["system"] == [{"type": "text", "text": "Be brief.", **KEPT}]


async def test_what_claude_refuses_as_empty_is_not_sent(provider: FakeProvider) -> None:
    """A turn without words is left out and its neighbours are joined; an empty result says so."""
    model = claude(provider)
    empty = Message(role="tool", results=(ToolResult(call_id="1", text=""),))
    turns = (Message(role="user", text="Hi"), Message(role="assistant", text=" "), empty, Message(role="user", text="Go on."))
    await model.complete(Request(messages=turns))
    await model.aclose()
    (only,) = provider.requests[0]["messages"]
    assert [block.get("text") or block.get("content") for block in only["content"]] == ["Hi", "(nothing)", "Go on."]


def test_claude_without_a_key_does_not_go_looking_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key in the config is an error that names the variable, even when the SDK would find one."""
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "from-the-environment")
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
        ClaudeModel(model="m", api_key="")


@pytest.mark.parametrize(
    ("mode", "field"), [("refuses_stream_options", "stream_options"), ("wants_max_completion_tokens", "max_tokens")]
)
async def test_a_servers_habit_is_learned_once(provider: FakeProvider, mode: str, field: str) -> None:
    """A parameter that this server refuses is not sent again."""
    provider.mode = mode
    model = chat(provider, options=Options(max_tokens=50))
    for _ in range(2):
        await model.complete(ASK)
    await model.aclose()
    assert [field in request for request in provider.requests] == [True, False, False]


async def test_a_pasted_url_works(provider: FakeProvider) -> None:
    """A base_url that ends in /chat/completions is the same endpoint; without a key, none is sent."""
    pasted = f"{provider.url}/v1/chat/completions/"
    model = chat(provider, base_url=pasted, api_key="", key_source="", options=Options(extra_body={"top_k": 5}))
    await model.complete(Request(messages=ASK.messages, temperature=0.0, seed=3))
    provider.mode = "wrong_key"
    with pytest.raises(ModelRefusedKey, match="none was given"):
        await model.complete(ASK)
    await model.aclose()
    assert "authorization" not in provider.headers[0]
    assert provider.requests[0]["top_k"] == 5
    assert provider.requests[0]["temperature"] == 0.0
    assert provider.requests[0]["seed"] == 3


@pytest.mark.parametrize("loopback", [True, False])
async def test_a_connection_that_our_own_server_closed_is_not_used_again(provider: FakeProvider, loopback: bool) -> None:
    """llama.cpp closes some connections without a word: there, each request has its own. Elsewhere they are kept."""
    model = chat(provider, loopback=loopback)
    for _ in range(3):
        await model.complete(ASK)
    await model.aclose()
    assert len(set(provider.clients)) == (3 if loopback else 1)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"backend": "chatcompletion"}, "model"),
        ({"backend": "claude", "model": "m"}, "ANTHROPIC_API_KEY"),
        ({"backend": "scripted"}, "script"),
        ({"backend": "local"}, "weights"),
        ({"backend": "openia"}, "chatcompletion"),
    ],
)
async def test_a_missing_setting_stops_before_any_call(settings: dict[str, Any], named: str) -> None:
    """The factory says which setting is missing."""
    with pytest.raises(ConfigError, match=named):
        async with open_model(**settings):
            pass


@pytest.mark.parametrize("kind", [kind for kind, row in TABLE.items() if row.protocol not in ("embedded", "recorded")])
async def test_every_backend_of_the_table_speaks_its_protocol(kind: BackendType, provider: FakeProvider) -> None:
    """Text, a call, its result in the next request, tokens and a refused key, through the factory, by the name in a config."""
    async with open_model(backend=kind, model="m", base_url=provider.url, api_key=KEY, key_source="MY_KEY") as model:
        assert (await model.complete(ASK)).text == "".join(WORDS)
        provider.mode = "call"
        reply = await model.complete(ASK)
        assert [call.name for call in reply.calls] == ["shell"]
        assert reply.usage == Usage(input_tokens=120, cached_tokens=100, output_tokens=30, reasoning_tokens=12)
        provider.mode = "text"
        await model.complete(Request(messages=(*ASK.messages, reply.as_message(), RESULT), tools=(SHELL,)))
        assert "a.py" in str(provider.requests[-1])
        assert "MY_KEY" in str(await failure(model, provider, "wrong_key"))


async def test_a_slow_server_that_goes_on_is_listened_to(opener: Open, provider: FakeProvider) -> None:
    """What is limited is silence: a reply that takes longer than that in all, a word at a time, comes out whole."""
    provider.mode = "drip"
    model = opener(provider, silence_s=0.5)
    assert (await model.complete(ASK)).text == "".join(WORDS)
    await model.aclose()


async def test_an_opened_model_is_closed(provider: FakeProvider) -> None:
    """The factory's block gives a working model; pytest fails on a connection left open."""
    async with open_model(backend="chatcompletion", model="m", base_url=f"{provider.url}/v1", api_key=KEY) as model:
        assert (await model.complete(ASK)).text == "".join(WORDS)
