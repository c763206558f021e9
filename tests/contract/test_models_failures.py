"""What else a provider may do wrong, or a user of an adapter, for each of the protocols; see `test_models.py` for the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from massgen.errors import (
    BadReply,
    ContextOverflow,
    ModelDeclined,
    ModelError,
    ModelRefusedKey,
    ModelUnavailable,
    ModelUnreachable,
    RateLimited,
)
from massgen.messages import Message, Piece, Request, ToolCall, ToolResult
from massgen.models import Model
from massgen.models.translate import Endpoint
from tests.support.adapters import ASK, KEY, SHELL, Open, azure, chat, claude, failure, responses
from tests.support.fake_provider import FakeProvider, fake_provider
from tests.support.fake_wires import CUT_CALL, WORDS, Script


@pytest.fixture
async def model(opener: Open, provider: FakeProvider) -> AsyncIterator[Model]:
    """Each adapter in turn, opened and closed."""
    opened = opener(provider)
    yield opened
    await opened.aclose()


async def test_a_call_in_pieces_is_reassembled(model: Model, provider: FakeProvider) -> None:
    """Name, id and arguments come out whole, beside the text."""
    provider.mode = "call"
    reply = await model.complete(ASK)
    assert reply.calls == (ToolCall(id="call_shell", name="shell", args={"command": "ls -l"}),)
    assert reply.text == "Looking."
    assert reply.stop == "tools"


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
        ("filtered", ModelDeclined, "content management policy"),
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


async def test_a_reply_of_endless_calls_is_worked_off(model: Model, provider: FakeProvider) -> None:
    """Ten thousand calls in one reply: no provider's model does that, and each would be run, shown and logged."""
    calls = [(f"list{number}", "{}") for number in range(10_000)]
    provider.think = lambda _: Script(calls=calls, stop="tools")
    with pytest.raises(BadReply, match="10000 calls in one reply"):
        await model.complete(ASK)


async def test_two_calls_share_a_result(opener: Open, provider: FakeProvider) -> None:
    """One id for two calls: their results could not be told apart. A server that speaks Chat is known to do it, and is helped."""
    provider.think = lambda _: Script(
        words=[], calls=[("shell", '{"command": "ls"}'), ("shell", '{"command": "id"}')], stop="tools"
    )
    model = opener(provider)
    if opener is chat:
        calls = (await model.complete(ASK)).calls
        assert [call.args for call in calls] == [{"command": "ls"}, {"command": "id"}]
        assert len({call.id for call in calls}) == 2
    else:
        with pytest.raises(BadReply, match="two calls with one id"):
            await model.complete(ASK)
    await model.aclose()


@pytest.mark.parametrize(("mode", "named"), [("packed", "packed as gzip"), ("endless_line", "MiB and no end")])
async def test_a_bomb_from_a_provider_is_not_unpacked(model: Model, provider: FakeProvider, mode: str, named: str) -> None:
    """Nothing compressed is read, and no event to the end that has none: neither fills the memory nor keeps others waiting."""
    error = await failure(model, provider, mode)
    assert isinstance(error, BadReply)
    assert named in str(error)


async def test_a_redirect_takes_neither_key_nor_conversation_along(model: Model, provider: FakeProvider) -> None:
    """Whoever answers a request may name another server: it is told to the user, and that server hears nothing."""
    with fake_provider() as elsewhere:
        provider.elsewhere = f"{elsewhere.url}/v1/steal"
        error = await failure(model, provider, "redirect")
        assert not elsewhere.paths
    assert elsewhere.url in str(error)
    assert (error.retryable, error.unbilled) == (False, True)


@pytest.mark.parametrize("mode", ["wrong_key", "no_permission"])
async def test_a_refused_key_names_its_variable_and_is_not_shown(model: Model, provider: FakeProvider, mode: str) -> None:
    """The message says where the key came from, and nothing of the key itself, though the provider quotes it."""
    error = await failure(model, provider, mode)
    assert isinstance(error, ModelRefusedKey)
    assert model.key_source in str(error)


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


async def test_an_endpoint_that_is_down_is_named(opener: Open) -> None:
    """No connection: the URL and what to look at."""
    with fake_provider() as gone:
        url = gone.url
    model = opener(gone)
    with pytest.raises(ModelUnreachable, match=r"cannot be reached \(nothing listens there\).*base_url") as caught:
        await model.complete(ASK)
    await model.aclose()
    assert url in str(caught.value)


def test_a_connection_that_breaks_in_mid_reply_is_not_taken_for_one_that_never_was() -> None:
    """What had been generated is to be paid for, whatever the exception is called."""
    endpoint = Endpoint(base_url="http://x", model="m", key_source="")
    assert not endpoint.broken(ConnectionResetError(104, "Connection reset by peer"), 1.0).unbilled


async def test_a_slow_server_that_goes_on_is_listened_to(opener: Open, provider: FakeProvider) -> None:
    """What is limited is silence: a reply that takes longer than that in all, a word at a time, comes out whole."""
    provider.mode = "drip"
    model = opener(provider, silence_s=0.5)
    assert (await model.complete(ASK)).text == "".join(WORDS)
    await model.aclose()


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
