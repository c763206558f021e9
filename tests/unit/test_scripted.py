"""The scripted model: what is said next, and what a bad script is told."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massgen.errors import ConfigError, ModelError, ModelUnavailable, RateLimited
from massgen.messages import Piece, Request, Usage
from massgen.models.scripted import ScriptedModel


def asked(phase: str = "coordination", answers: int = 0, own: str | None = None, latest: str | None = None) -> Request:
    """A request in this situation."""
    return Request(messages=(), situation={"phase": phase, "answers": answers, "own": own, "latest": latest})


async def said(model: ScriptedModel, *requests: Request) -> list[str]:
    """The texts of the replies, in order."""
    return [(await model.complete(request)).text for request in requests]


async def test_an_entry_is_not_used_twice_or_out_of_turn() -> None:
    """The first unused entry whose condition holds is the reply; one that does not hold waits for its time."""
    model = ScriptedModel.of(
        [
            {"when": {"phase": "final"}, "text": "presented"},
            {"when": {"answers": ">=1"}, "text": "voting"},
            {"text": "first"},
            {"text": "second"},
        ]
    )
    assert await said(model, asked(), asked(answers=1), asked(answers=2), asked("final", 2)) == [
        "first",
        "voting",
        "second",
        "presented",
    ]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [(">=1", {1, 2}), (">1", {2}), ("<= 1", {0, 1}), ("<1", {0}), ("==1", {1}), ("1", {1}), (1, {1}), (" >= 1 ", {1, 2})],
)
async def test_a_condition_means_what_it_says(condition: str | int, holds: set[int]) -> None:
    """Each comparison, with and without spaces, and a plain number."""
    for answers in range(3):
        model = ScriptedModel.of([{"when": {"answers": condition}, "text": "fits"}, {"text": "else"}])
        assert await said(model, asked(answers=answers)) == ["fits" if answers in holds else "else"]


async def test_a_vote_reaches_the_label_of_the_moment() -> None:
    """`$latest` and `$own` become labels when the vote is cast; a label, and another tool's argument, stay."""
    calls = [
        {"name": "vote", "args": {"agent_id": target, "reason": "it passes"}} for target in ("$latest", "$own", "agent1")
    ] + [{"name": "shell", "args": {"agent_id": "$latest"}}]
    reply = await ScriptedModel.of([{"calls": calls}]).complete(asked(answers=2, own="agent3", latest="agent2"))
    assert [call.args["agent_id"] for call in reply.calls] == ["agent2", "agent3", "agent1", "$latest"]
    assert len({call.id for call in reply.calls}) == 4
    assert reply.stop == "tools"


async def test_a_vote_for_nobody_is_an_error_and_not_a_vote() -> None:
    """`$latest` before there is an answer is the script's mistake, and says so."""
    model = ScriptedModel.of([{"calls": [{"name": "vote", "args": {"agent_id": "$latest"}}]}])
    with pytest.raises(ModelError, match="no such answer"):
        await model.complete(asked())


async def test_a_script_that_ran_out_is_not_retried() -> None:
    """None left: a model error that names the situation; trying again cannot help."""
    model = ScriptedModel.of([{"text": "only", "when": {"phase": "final"}}])
    with pytest.raises(ModelError, match=r"coordination.*0 of 1 used") as caught:
        await model.complete(asked())
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("name", "kind"), [("rate_limit", RateLimited), ("disconnect", ModelUnavailable), ("timeout", ModelUnavailable)]
)
async def test_a_scripted_failure_is_a_real_one_once(name: str, kind: type[ModelError]) -> None:
    """The entry raises the retryable error it names and is used up: the retry gets the next one."""
    model = ScriptedModel.of([{"error": name, "delay_s": 0}, {"text": "recovered"}])
    with pytest.raises(kind) as caught:
        await model.complete(asked())
    assert caught.value.retryable
    assert await said(model, asked()) == ["recovered"]


async def test_streamed_text_is_the_reply() -> None:
    """The pieces joined are the text, and usage is the script's."""
    pieces: list[Piece] = []
    text = "one\ntwo\n\nthree"
    model = ScriptedModel.of([{"text": text, "usage": {"input": 900, "output": 40}}])
    reply = await model.complete(asked(), on_piece=pieces.append)
    assert "".join(piece.text for piece in pieces) == reply.text == text
    assert reply.usage == Usage(input_tokens=900, output_tokens=40)
    assert reply.stop == "end"


async def test_two_agents_do_not_eat_each_others_lines(tmp_path: Path) -> None:
    """Two models of one file have each the whole script; JSON is as good as YAML."""
    script = tmp_path / "script.yaml"
    script.write_text('[{"text": "mine", "when": {"phase": "coordination"}}]')
    assert await said(ScriptedModel(script), asked()) == await said(ScriptedModel(script), asked()) == ["mine"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("- text: hi\n- txt: ho\n", r"script\.yaml, entry 2: unknown key `txt`; did you mean `text`"),
        ("- when: {fase: final}\n", r"entry 1: unknown key `when\.fase`; did you mean `phase`"),
        ("- when: {phase: finale}\n", r"`when\.phase` must be one of coordination, final, not 'finale'"),
        ("- when: {answers: '=>1'}\n", r"`when\.answers` must be a number, or a comparison"),
        ("- when: {answers: true}\n", r"`when\.answers`"),
        ("- when: soon\n", r"`when` must be a table"),
        ("- calls: {name: vote}\n", r"`calls` must be a list"),
        ("- calls: [{nam: vote}]\n", r"unknown key `calls\[0\]\.nam`; did you mean `name`"),
        ("- calls: [{args: {}}]\n", r"`calls\[0\]\.name`"),
        ("- calls: [{name: vote, args: [1]}]\n", r"`calls\[0\]\.args`"),
        ("- usage: {input: -1}\n", r"`usage\.input` must be a number, 0 or more"),
        ("- delay_s: fast\n", r"`delay_s`"),
        ("- delay_s: .inf\n", r"`delay_s`"),
        ("- error: rate-limit\n", r"`error` must be one of rate_limit"),
        ("- text: 5\n", r"`text` must be text, not 5"),
        ("- just text\n", r"entry 1: an entry is a table"),
        ("text: hi\n", r"a script is a list"),
        ("", r"a script is a list of entries .*, not nothing"),
        ("- {text: 'open\n", r"neither YAML nor JSON"),
    ],
)
def test_a_typo_is_found_before_the_run(tmp_path: Path, content: str, named: str) -> None:
    """A bad script names the file, the entry and the key, and the nearest known key."""
    script = tmp_path / "script.yaml"
    script.write_text(content)
    with pytest.raises(ConfigError, match=named) as caught:
        ScriptedModel(script)
    assert str(script) in str(caught.value)


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        ScriptedModel(tmp_path / "nothing.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_no_content_breaks_the_reader(content: Any) -> None:
    """Whatever was parsed, the reader accepts it or says what is wrong: it never fails otherwise."""
    with suppress(ConfigError):
        ScriptedModel.of([content])
