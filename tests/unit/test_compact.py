"""A conversation that no longer fits: what is taken out, what never is, and that it is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from massgen.agent.compact import KEPT_TURNS, MARK, WORTH_CHARS, compacted
from massgen.agent.relay import CUT_OFF
from massgen.agent.view import Answered, Failed, Presented
from massgen.errors import ContextOverflow, ModelDeclined
from massgen.events.types import Compacted
from massgen.messages import Image, Message, Reply, Request, ToolCall, ToolResult
from tests.support.looks import ANSWER, Look, calls, view

LONG = "x" * 5000


def turns(*sizes: int) -> tuple[Message, ...]:
    """A question, then one call and its result for each size."""
    told = [Message(role="system", text="s"), Message(role="user", text="q")]
    for number, size in enumerate(sizes):
        told.append(Message(role="assistant", calls=(ToolCall(id=f"c{number}", name="read_file", args={}),)))
        told.append(Message(role="tool", results=(ToolResult(call_id=f"c{number}", text="x" * size),)))
    return tuple(told)


def test_the_oldest_results_go_first_and_no_more_than_needed() -> None:
    """Half of the text goes; what is left stays word for word, and each call keeps a result that names its tool."""
    taken = compacted(turns(5000, 5000, 5000, 5000))
    assert taken is not None
    results = [message.results[0].text for message in taken.messages if message.results]
    assert [text.startswith(MARK) for text in results] == [True, True, False, False]
    assert "5000 characters of what read_file returned" in results[0]
    assert results[2:] == [LONG, LONG]
    assert (taken.results, taken.chars) == (2, 10_000 - len(results[0]) - len(results[1]))


def test_nothing_that_could_go_is_said_as_such() -> None:
    """The latest results, short ones, and remarks of an earlier time are not taken."""
    assert compacted(turns()) is None
    assert compacted(turns(5000, 5000)) is None
    assert compacted(turns(10, 10, 10, 10)) is None
    once = compacted(turns(9000, 100, 100))
    assert once is not None
    assert compacted(once.messages) is None


def test_old_pictures_make_room_too() -> None:
    """One counts for about what it costs; a remark says that it was there."""
    picture = Image(media_type="image/png", data=b"x")
    before = [
        replace(m, results=tuple(replace(r, text="short", images=(picture,)) for r in m.results)) for m in turns(0, 0, 0, 0, 0)
    ]
    taken = compacted(tuple(before))
    assert taken is not None
    results = [result for message in taken.messages for result in message.results]
    assert [len(result.images) for result in results] == [0, 0, 0, 1, 1]
    assert results[0].text == f"{MARK}a picture that read_file returned; ask again for it]"


@given(st.lists(st.integers(0, 3000), max_size=12))
def test_people_and_models_are_never_cut(sizes: list[int]) -> None:
    """Only results change; there are as many messages and results as before; it is never longer."""
    before = turns(*sizes)
    taken = compacted(before)
    if taken is None:
        return
    assert len(taken.messages) == len(before)
    at = [number for number, message in enumerate(before) if message.results]
    for number, (old, new) in enumerate(zip(before, taken.messages, strict=True)):
        if number not in at[:-KEPT_TURNS]:
            assert new == old
        elif new != old:
            assert len(old.results[0].text) > WORTH_CHARS > len(new.results[0].text)
            assert (new.role, new.results[0].call_id) == (old.role, old.results[0].call_id)


def grown(folder: Path, *then: Any) -> Look:
    """A look whose commands print a lot before what comes then."""
    (folder / "home").mkdir(exist_ok=True)
    (folder / "home" / "big").write_text("y" * 3000)
    reads = [calls(("shell", {"command": f"cat big; echo {number}"})) for number in range(4)]
    return Look(folder, *reads, *then)


async def test_a_conversation_that_is_too_long_goes_on_without_its_oldest_results(tmp_path: Path) -> None:
    """Said in the events; the model is asked once more, and the shorter conversation is what stays."""
    look = grown(tmp_path, ContextOverflow("too long"), calls(ANSWER))
    assert await look.session.look(view()) == Answered(text="The answer.")
    (told,) = [event for event in look.events if isinstance(event, Compacted)]
    assert told.results == 2
    sent = [result.text for message in look.model.requests[-1].messages for result in message.results]
    assert [text.startswith(MARK) for text in sent] == [True, True, False, False]
    assert [text.startswith(MARK) for text in look.results()][:4] == [True, True, False, False]


async def test_a_conversation_that_cannot_be_made_to_fit_is_a_failed_look(tmp_path: Path) -> None:
    """One attempt; then the typed failure reaches coordination, and the other agents go on."""
    look = grown(tmp_path, ContextOverflow("too long"), ContextOverflow("still too long"))
    assert await look.session.look(view()) == Failed(why="still too long")
    look = Look(tmp_path, ContextOverflow("too long"))
    assert await look.session.look(view()) == Failed(why="too long")
    assert len(look.model.requests) == 1


async def test_half_a_call_is_not_run_and_the_model_is_told_why(tmp_path: Path) -> None:
    """A reply that ended at its limit: its broken call does nothing, and `again` is not all that is said."""
    broken = ToolCall(id="c", name="write_file", args={}, bad_args='{"path": "a.py", "content": "def')
    look = Look(tmp_path, Reply(calls=(broken,), stop="length"), Reply(text="and so", stop="length"), calls(ANSWER))
    assert await look.session.look(view()) == Answered(text="The answer.")
    assert CUT_OFF in look.results()[0]
    assert "smaller parts" in look.results()[0]
    assert CUT_OFF in look.session.transcript[-3].text, "text alone that was cut is told, too"


async def test_a_final_text_that_was_cut_is_asked_for_again_once(tmp_path: Path) -> None:
    """A model that is always long still gets its words to the user."""
    look = Look(tmp_path, Reply(text="long", stop="length"), Reply(text="still long", stop="length"))
    assert await look.session.look(view(phase="final")) == Presented(text="still long")


async def test_a_model_that_declines_ends_its_look(tmp_path: Path) -> None:
    """It is not asked three times why it called nothing, and the conversation can go on without the refusal."""

    def refuse(_: Request) -> Reply:
        return Reply(text="No.", stop="refusal")

    look = Look(tmp_path, refuse, calls(ANSWER))
    decision = await look.session.look(view())
    assert isinstance(decision, Failed)
    assert str(ModelDeclined("said will not answer this: No.")) == decision.why
    assert await look.session.look(view()) == Answered(text="The answer.")
