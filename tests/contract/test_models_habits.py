"""One provider's own habits, and how a model is opened by the name of its backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from massgen.errors import ConfigError, ModelRefusedKey
from massgen.messages import Message, Request, ToolResult
from massgen.models import Options, open_model
from massgen.models.chat import ChatModel
from massgen.models.claude import MAX_TOKENS, ClaudeModel
from massgen.models.openai_sdk import OpenAIClient
from tests.support.adapters import ASK, KEY, RESULT, SHELL, Open, chat, claude, gemini, responses
from tests.support.fake_provider import FakeProvider
from tests.support.fake_wires import DETAIL, REASONING, REDACTED, THINKING, WORDS

KEPT = {"cache_control": {"type": "ephemeral"}}


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
    """It keeps nothing unasked: tools, system text and the ends of the conversation now and before are marked, and counted.

    A turn of many calls does not hide the place from which on it is new; more marks than these the API does not take.
    """
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
    assert [block.get("name") or block["text"] for block in marked] == ["other", "Be brief.", ASK.messages[-1].text, "Go on."]


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


@pytest.mark.parametrize(
    ("wanted", "limit", "sent"),
    [(8000, 20_000, 8000), (8000, 3000, 1500), (8000, 1500, None), (0, 3000, None), (30_000, None, 30_000)],
)
async def test_thinking_stays_within_what_a_call_may_take(
    provider: FakeProvider, wanted: int, limit: int | None, sent: int | None
) -> None:
    """A cap that leaves little room is not passed by the thinking that a config asks for."""
    model = claude(provider, options=Options(thinking_tokens=wanted))
    await model.complete(replace(ASK, max_tokens=limit))
    await model.aclose()
    asked = provider.requests[0]
    assert asked["thinking"] == ({"type": "enabled", "budget_tokens": sent} if sent else {"type": "disabled"})
    assert asked["max_tokens"] == (limit or 30_000 + 4096)


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
