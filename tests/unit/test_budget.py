"""No bill without a cap: what may be spent is set aside before it can be spent twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massgen.budget import Cap, Counted, Ledger, Price, Reservation, price_of
from massgen.budget.ledger import PICTURE_TOKENS
from massgen.errors import BudgetReached
from massgen.messages import Image, Message, Request, ToolResult, ToolSpec, Usage

CENT = Price(input=1.0, output=10.0, cached=0.1)
ASK = Request(messages=(Message(role="user", text="x" * 984),), max_tokens=900)
"""At most 1,000 tokens in and 900 out: a cent, to the tenth."""


def test_two_agents_cannot_both_have_the_last_cent() -> None:
    """The second is refused while the first one's call is still under way."""
    ledger = Ledger(run=Cap(cost_usd=0.0101))
    first = ledger.reserve("a", ASK, CENT)
    with pytest.raises(BudgetReached, match="reserved for calls under way"):
        ledger.reserve("b", ASK, CENT)
    ledger.settle(first, Usage(input_tokens=250, output_tokens=10), CENT)
    second = ledger.reserve("b", ASK, CENT)
    assert second.max_tokens == 875  # what is left pays for so much


def test_an_agents_own_cap_does_not_stop_the_others() -> None:
    """Caps per agent hold beside the run's."""
    ledger = Ledger(run=Cap(tokens=100_000), agents={"a": Cap(tokens=1_900)})
    held = ledger.reserve("a", ASK, CENT)
    ledger.settle(held, Usage(input_tokens=1000, output_tokens=800), CENT)
    with pytest.raises(BudgetReached, match=r"budget of a .*1800 of 1900 tokens"):
        ledger.reserve("a", ASK, CENT)
    ledger.reserve("b", ASK, CENT)


def test_a_refused_call_costs_nothing_and_a_lost_one_its_worst_case() -> None:
    """What a broken connection cost nobody knows: it is not given back."""
    ledger = Ledger(run=Cap(cost_usd=0.02))
    ledger.cancel(ledger.reserve("a", ASK, CENT))
    assert ledger.cost_usd == 0
    ledger.forfeit(ledger.reserve("a", ASK, CENT))
    assert ledger.cost_usd == pytest.approx(0.01)


def test_a_call_without_a_limit_is_given_one_under_a_cap() -> None:
    """Otherwise nobody could say what it will cost at most."""
    open_ended = Request(messages=ASK.messages)
    assert Ledger().reserve("a", open_ended, CENT).max_tokens is None
    assert Ledger(run=Cap(cost_usd=100)).reserve("a", open_ended, CENT).max_tokens == 16_384


def test_what_the_provider_counted_is_not_guessed_again() -> None:
    """Only messages and tools that it has not seen are taken at a token a byte; what it wants back unread is read, too."""
    more = (*ASK.messages, Message(role="user", text="y" * 84))
    tools = (ToolSpec(name="t", description="d" * 5000, parameters={}),)
    known = Counted(tokens=300, messages=1, tools=tools)
    assert Ledger().reserve("a", Request(messages=more, tools=tools, max_tokens=1), CENT, known=known).tokens == 300 + 100 + 1
    two = (*tools, ToolSpec(name="v", description="é" * 40, parameters={}))
    assert Ledger().reserve("a", Request(messages=more, tools=two, max_tokens=1), CENT, known=known).tokens == 401 + 16 + 83
    sealed = Message(role="assistant", native="s" * 84)
    assert Ledger().reserve("a", Request(messages=(sealed,), max_tokens=1), CENT).tokens == 100 + 1


def test_a_small_file_may_be_a_large_picture() -> None:
    """What it counts is not known by its bytes: each is set aside at the most that any model takes."""
    picture = Image(media_type="image/png", data=b"x")
    shown = Message(role="tool", results=(ToolResult(call_id="1", text="", images=(picture,)),))
    held = Ledger().reserve("a", Request(messages=(replace(ASK.messages[0], images=(picture,)), shown), max_tokens=1), CENT)
    assert held.tokens == 1000 + 16 + 2 * PICTURE_TOKENS + 1


def test_cached_input_has_its_own_price() -> None:
    """And is not paid for twice."""
    usage = Usage(input_tokens=1_000_000, cached_tokens=900_000, output_tokens=100_000, reasoning_tokens=50_000)
    assert CENT.cost_usd(usage) == pytest.approx(0.1 + 0.09 + 1.0)


def test_what_a_provider_keeps_may_cost_more_than_other_input() -> None:
    """In the bill, and before it in what is set aside; without such a price it is input like any other."""
    usage = Usage(input_tokens=1_000_000, cached_tokens=500_000, output_tokens=0)
    dear = replace(CENT, written=1.25)
    assert dear.cost_usd(usage, cache_written_tokens=400_000) == pytest.approx(0.05 + 0.5 + 0.1)
    assert CENT.cost_usd(usage, cache_written_tokens=400_000) == CENT.cost_usd(usage) == pytest.approx(0.05 + 0.5)
    asked = Request(messages=(Message(role="user", text="x" * 1000),), max_tokens=1)
    plain, more = (Ledger(run=Cap(cost_usd=1.0)).reserve("a", asked, price).cost_usd for price in (CENT, dear))
    assert plain < more < 1.25 * plain
    known = price_of("claude-sonnet-4-5", base_url="https://api.anthropic.com", given={})
    assert known is not None
    assert known.written is not None
    assert known.worst_input == known.written > known.input


def test_a_price_that_nobody_knows_is_not_zero() -> None:
    """Unknown is None; the user's word wins over the table."""
    assert price_of("no-such-model-1", base_url="https://models.example.org/v1", given={}) is None
    known = price_of("gpt-5-mini", base_url="https://api.openai.com/v1", given={})
    assert known is not None
    assert 0 < known.input < known.output
    assert price_of("gpt-5-mini", base_url="https://api.openai.com/v1", given={"gpt-5-mini": CENT}) is CENT


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.integers(0, 3000),
            st.integers(1, 2000),
            st.sampled_from(["settle", "cancel", "forfeit", "hold"]),
        ),
        max_size=30,
    )
)
def test_no_order_of_calls_passes_a_cap(steps: list[tuple[str, int, int, str]]) -> None:
    """Whatever agents ask and however calls end: spent plus reserved never exceeds a cap, and nothing is lost."""
    ledger = Ledger(run=Cap(cost_usd=0.05, tokens=20_000), agents={"a": Cap(tokens=9_000)})
    waiting: list[Reservation] = []
    for agent, size, wanted, end in steps:
        request = Request(messages=(Message(role="user", text="x" * size),), max_tokens=wanted)
        try:
            held = ledger.reserve(agent, request, CENT)
        except BudgetReached:
            continue
        if end == "hold":
            waiting.append(held)
        elif end == "settle":
            ledger.settle(
                held, Usage(input_tokens=held.tokens - (held.max_tokens or 0), output_tokens=held.max_tokens or 0), CENT
            )
        else:
            getattr(ledger, end)(held)
        for account in (ledger._run, *ledger._agents.values()):
            assert account.left_usd >= -1e-9
            assert account.left_tokens >= 0
    for held in waiting:
        ledger.cancel(held)
    assert ledger._run.held_tokens == 0
