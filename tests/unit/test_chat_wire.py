"""Habits of servers that call themselves compatible, each as a chunk or two."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massgen.messages import Reply
from massgen.models.chat_wire import Parts, read_args


def replied(*deltas: dict[str, Any], finish: str = "tool_calls") -> Reply:
    """The reply of a stream of these deltas."""
    parts = Parts()
    for delta in deltas:
        parts.add({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    parts.add({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return parts.reply()


def call(args: object, **more: object) -> dict[str, Any]:
    """A delta with a piece of one call."""
    name = more.pop("name", None)
    return {"tool_calls": [{"function": {"name": name, "arguments": args}, **more}]}


def heard(reply: Reply) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of the calls."""
    return [(found.name, dict(found.args)) for found in reply.calls]


def test_parallel_calls_with_one_number_stay_apart() -> None:
    """All calls numbered 0, told apart by their ids alone."""
    reply = replied(call('{"a": 1}', index=0, id="x", name="one"), call('{"b": 2}', index=0, id="y", name="two"))
    assert heard(reply) == [("one", {"a": 1}), ("two", {"b": 2})]


def test_calls_without_a_number_stay_apart() -> None:
    """No `index` at all: an id begins a call, a piece without one belongs to the call before."""
    reply = replied(call('{"a"', id="x", name="one"), call(": 1}"), call('{"b": 2}', id="y", name="two"))
    assert heard(reply) == [("one", {"a": 1}), ("two", {"b": 2})]


def test_an_id_and_name_in_every_chunk_are_not_joined() -> None:
    """Repeated names do not become `oneone`."""
    reply = replied(call('{"a"', index=0, id="x", name="one"), call(": 1}", index=0, id="x", name="one"))
    assert heard(reply) == [("one", {"a": 1})]
    assert reply.calls[0].id == "x"


def test_arguments_as_an_object_are_understood() -> None:
    """An object instead of its JSON text; and calls without id get one each."""
    reply = replied(call({"a": 1}, index=0, name="one"), call({}, index=1, name="two"))
    assert heard(reply) == [("one", {"a": 1}), ("two", {})]
    assert len({found.id for found in reply.calls}) == 2


def test_a_call_is_not_overlooked_because_the_server_says_stop() -> None:
    """The finish reason `stop` after calls still means: run them."""
    assert replied(call("{}", index=0, id="x", name="one"), finish="stop").stop == "tools"
    assert replied({"content": "hi"}, finish="eos").stop == "end"


def test_a_refusal_is_text_and_is_told() -> None:
    """A refusal comes in a field of its own; what it says is not lost."""
    reply = replied({"refusal": "I will not."}, finish="stop")
    assert (reply.text, reply.stop) == ("I will not.", "refusal")


def test_usage_in_every_chunk_is_not_added_up() -> None:
    """The last figure counts."""
    parts = Parts()
    for count in (1, 2, 3):
        parts.add({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": count}})
    assert (parts.reply().usage.input_tokens, parts.reply().usage.output_tokens) == (10, 3)


@pytest.mark.parametrize("text", ["[1]", "null", '"ls"', "{'a': 1}", '{"a": ', "{} {}"])
def test_what_is_no_object_is_kept_as_text(text: str) -> None:
    """Nothing is guessed, nothing is lost."""
    assert read_args(text) == ({}, text)


@given(
    args=st.dictionaries(st.text(), st.text() | st.integers() | st.none()),
    cuts=st.lists(st.integers(min_value=0, max_value=60)),
)
def test_where_a_server_cuts_does_not_matter(args: dict[str, Any], cuts: list[int]) -> None:
    """Arguments cut into any pieces come out as they went in."""
    text = json.dumps(args)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    reply = replied(call("", index=0, id="x", name="one"), *(call(piece, index=0) for piece in pieces))
    assert heard(reply) == [("one", args)]
