"""What providers do by themselves, where a config wants it: what their search found is kept, and goes back as it came."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from massgen.messages import Citation, Message, Request
from massgen.models import Options
from tests.support.adapters import ASK, Open, claude, responses
from tests.support.fake_provider import FakeProvider, fake_provider
from tests.support.fake_wires import CITED, SEARCH_CALL, SEARCHED, WORDS

SEARCHING = Options(hosted=frozenset({"web_search"}))
GO_ON = Message(role="user", text="Go on.")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with fake_provider() as provider:
        provider.mode = "searched"
        yield provider


async def test_where_a_search_found_it_is_kept(opener: Open, provider: FakeProvider) -> None:
    """Each source once, in order, with its title; the words are the reply's and no call is ours to run."""
    model = opener(provider, options=SEARCHING)
    reply = await model.complete(ASK)
    await model.complete(Request(messages=(*ASK.messages, reply.as_message(), GO_ON)))
    await model.aclose()
    assert reply.citations == tuple(Citation(url=url, title=title) for url, title in CITED)
    assert (reply.text, reply.calls, reply.stop) == ("".join(WORDS), (), "end")
    assert "Go on." in str(provider.requests[1])


async def test_what_a_search_did_goes_back_as_it_came(provider: FakeProvider) -> None:
    """These two check it: a search without its result, or a result without its seal, is an error there."""
    for opener in (claude, responses):
        model = opener(provider, options=SEARCHING)
        reply = await model.complete(ASK)
        await model.complete(Request(messages=(*ASK.messages, reply.as_message(), GO_ON)))
        await model.aclose()
    assert provider.requests[1]["messages"][1]["content"][:2] == SEARCHED
    assert SEARCH_CALL in provider.requests[3]["input"]
