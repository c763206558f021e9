"""The strategy for small models: asking, splicing, trying, voting."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from massgen.agent.approval import approval
from massgen.agent.excerpt import CODE_CHARS, Suspect, excerpt, longest_block, question, read_suspects
from massgen.agent.repair import RepairSession
from massgen.agent.view import Answered, Failed, Place, Presented, ShownAnswer, View, Voted
from massgen.events.types import Event, ModelCalled, RepairAttempted, Verified
from massgen.messages import Reply, Request, Usage
from tests.support.buggy import FLATTEN, PYTEST_SHORT, TESTS, write_project
from tests.support.local_box import LocalBox

FIX = FLATTEN.split("\n\n\n")[1].replace("result.append(flatten(item))", "result.extend(flatten(item))")
WORSE = "def flatten(items):\n    raise ValueError\n"
RIGHT_REPLY = f"Here:\n```python\n{FIX}\n```\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project")


class Small:
    """A small model: replies in turn, and scores by a rule."""

    name = "small"
    key_source = ""

    def __init__(self, *replies: str, score: Callable[[str], float] = lambda _: 0.0) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []
        self.rule = score
        self.scored: list[str] = []

    async def complete(self, request: Request, *, on_piece: object = None) -> Reply:
        self.requests.append(request)
        return Reply(text=self.replies.pop(0))

    async def score(self, messages: Any, *, yes: str = "yes", no: str = "no", on_usage: Any = None) -> float:
        on_usage(Usage(input_tokens=100, output_tokens=1))
        self.scored.append(messages[-1].text)
        return self.rule(messages[-1].text)

    async def aclose(self) -> None:
        return


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def session(project: Path, model: Small, events: list[Event], **more: Any) -> RepairSession:
    box = LocalBox(project.parent / "cache", project)
    return RepairSession(label="agent1", model=model, box=box, emit=events.append, cwd=str(project), **more)


def view(*answers: ShownAnswer, **more: Any) -> View:
    places = (Place(path="/project", mode="draft"),)
    return View(phase=more.pop("phase", "coordination"), task="Fix the test.", answers=answers, paths=places, **more)


def attempts(events: list[Event]) -> list[tuple[int, str, str]]:
    return [(e.attempt, e.function, e.outcome) for e in events if isinstance(e, RepairAttempted)]


# -- asking ------------------------------------------------------------------------------------------------------


def suspect(**more: Any) -> Suspect:
    base: dict[str, Any] = {"path": "lists.py", "name": "flatten", "start": 4, "end": 12, "doc": None, "why": ""}
    return Suspect(**base | more)


def test_a_short_file_is_shown_whole_and_the_prompt_is_the_measured_one() -> None:
    """Word by word: other forms were measured and are worse."""
    part = excerpt(FLATTEN, suspect())
    assert part
    assert part.whole
    system, user = question(suspect(), part, PYTEST_SHORT, "python3 -m pytest -q")
    assert system.text.splitlines()[1] == "Answer with the complete corrected function in one ```python block and nothing else."
    assert user.text.startswith('pytest fails. Fix lists.py.\n\nFile lists.py:\n```python\n"""Lists."""')
    assert "\n\npytest output:\n```\ntest_nested\n" in user.text
    assert user.text.endswith("```\n\nWrite only the corrected function in one ```python block.")


@pytest.mark.parametrize("size", [5, 60, 200, 4000])
def test_no_prompt_outgrows_the_context(size: int) -> None:
    """Whatever the file: at most 2,800 tokens at three characters each, or the suspect is left out."""
    doc = '    """Long.\n' + "    words of the docstring\n" * 100 + '    """\n'
    filler = "".join(f"def other_{n}(a):\n    return a + {n}\n\n\n" for n in range(300))
    start = filler.count("\n") + 1
    text = filler + "def f(x):\n" + doc + "    x += 1\n" * size + "    return x\n" + filler
    at = suspect(name="f", start=start, end=start + 103 + size, doc=(start + 1, start + 102))
    part = excerpt(text, at)
    if part is None:
        assert size * 11 > CODE_CHARS - 200
        return
    assert part.doc_hidden
    assert "docstring" not in part.code
    assert "def f(x):" in part.code
    messages = question(at, part, "x" * 100_000, "pytest")
    assert sum(len(message.text) for message in messages) <= 2800 * 3
    assert part.answer_tokens <= 1000


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("```python\ndef f():\n    pass\n```", "def f():\n    pass\n"),
        ("```\nx\n```\nor\n```py\ndef f():\n    return 1\n```\n", "def f():\n    return 1\n"),
        ("```python\ndef f():\n    return 1\n", "def f():\n    return 1\n"),
        ("def f():\n    return 1", "def f():\n    return 1"),
        ("I cannot help.", ""),
    ],
)
def test_the_longest_block_is_the_code(reply: str, code: str) -> None:
    """Also one that was never closed, and a reply that is nothing but code."""
    assert longest_block(reply) == code


@pytest.mark.parametrize(
    "text", ["", "5", "[" * 5000, '[{"path": 5}]', '[{"path":"a","name":"b","start":9,"end":1,"doc":null,"why":""}]']
)
def test_a_lying_locator_suspects_nobody(text: str) -> None:
    """What a container says is checked before it is used."""
    assert read_suspects(text) == ()


# -- the whole repair --------------------------------------------------------------------------------------------

pytestmark = pytest.mark.skipif(shutil.which("python3") is None, reason="the tests of the project run with python3")


async def test_the_first_right_reply_is_the_answer(project: Path) -> None:
    """Tests, function, splice, tests: the file holds the fix, and nothing else changed."""
    events: list[Event] = []
    model = Small(RIGHT_REPLY)
    decision = await session(project, model, events, temperature=0.7).look(view())
    assert isinstance(decision, Answered)
    assert "Repaired `flatten`" in decision.text
    assert "PASS (3 passed); before: FAIL (1 failed, 2 passed)" in decision.text
    assert (project / "lists.py").read_text(encoding="utf-8") == FLATTEN.replace(".append(flatten", ".extend(flatten")
    assert names_in(project) == ["lists.py", "test_lists.py"]
    assert attempts(events) == [(0, "flatten", "pass")]
    assert (model.requests[0].temperature, model.requests[0].max_tokens, model.requests[0].tools) == (0.7, 300, ())


async def test_attempts_ask_the_same_prompt_hotter_with_their_own_seed(project: Path) -> None:
    """Unusable, wrong, right: the file is put back in between, and the prefix stays the same for the server's cache."""
    events: list[Event] = []
    (project / "extra.py").write_text("x = 1\n", encoding="utf-8")
    model = Small("No idea.", f"```python\n{WORSE}```", RIGHT_REPLY)
    decision = await session(project, model, events).look(view())
    assert isinstance(decision, Answered)
    assert [outcome for _, _, outcome in attempts(events)] == ["unusable", "fail", "pass"]
    assert [request.temperature for request in model.requests] == [0.0, 0.8, 0.8]
    assert len({request.seed for request in model.requests}) == 3
    assert model.requests[0].messages == model.requests[1].messages


async def test_without_progress_the_project_stays_as_it_was(project: Path) -> None:
    """Three wrong fixes: an honest answer and no change."""
    events: list[Event] = []
    model = Small("```python\n" + FLATTEN + "```", f"```python\n{WORSE}```", "```python\ndef flatten(items:\n```")
    decision = await session(project, model, events).look(view())
    assert isinstance(decision, Answered)
    assert "could not repair" in decision.text
    assert "FAIL (1 failed, 2 passed)" in decision.text
    assert (project / "lists.py").read_text(encoding="utf-8") == FLATTEN
    assert [outcome for _, _, outcome in attempts(events)] == ["unusable", "fail", "unusable"]


async def test_the_best_try_is_handed_in(project: Path) -> None:
    """No try passes, one makes fewer tests fail: that one is in the file at the end."""
    (project / "test_lists.py").write_text(TESTS + "\n\ndef test_none():\n    assert flatten(None) == []\n", encoding="utf-8")
    events: list[Event] = []
    worse = f"```python\n{WORSE}```"
    decision = await session(project, Small(worse, RIGHT_REPLY, worse), events).look(view())
    assert isinstance(decision, Answered)
    assert "Improved, not repaired" in decision.text
    assert "extend" in (project / "lists.py").read_text(encoding="utf-8")


async def test_the_verify_command_of_the_user_is_used(project: Path) -> None:
    """Here unittest instead of pytest."""
    (project / "test_lists.py").write_text(
        "import unittest\nfrom lists import flatten\n\n\nclass T(unittest.TestCase):\n"
        "    def test_it(self):\n        self.assertEqual(flatten([[1]]), [1])\n",
        encoding="utf-8",
    )
    events: list[Event] = []
    model = Small(RIGHT_REPLY)
    decision = await session(project, model, events, verify=f"{sys.executable} -m unittest").look(view())
    assert isinstance(decision, Answered)
    assert attempts(events) == [(0, "flatten", "pass")]
    assert model.requests[0].messages[1].text.startswith("unittest fails. Fix lists.py.")


async def test_without_failing_tests_the_model_just_answers(project: Path, tmp_path: Path) -> None:
    """Tests pass, or there are none, or there is no project: plain words, nothing attempted."""
    (project / "lists.py").write_text(FLATTEN.replace(".append(flatten", ".extend(flatten"), encoding="utf-8")
    events: list[Event] = []
    model = Small("All is well.", "Hello.", "42")
    acting = session(project, model, events, system_message="Be kind.")
    assert await acting.look(view()) == Answered(text="All is well.")
    assert "pass already: PASS (3 passed)" in model.requests[0].messages[-1].text
    (project / "test_lists.py").unlink()
    assert await acting.look(view()) == Answered(text="Hello.")
    assert "no tests" in model.requests[1].messages[-1].text
    assert await acting.look(View(phase="coordination", task="6 * 7?")) == Answered(text="42")
    assert [message.text for message in model.requests[2].messages] == ["Be kind.", "6 * 7?"]
    assert not attempts(events)


# -- votes -------------------------------------------------------------------------------------------------------


def shown(label: str, *, ok: bool | None, own: bool = False) -> ShownAnswer:
    verify = (
        None if ok is None else Verified(answer=f"{label}.1", ok=ok, summary="", passed=5 if ok else 3, failed=0 if ok else 2)
    )
    return ShownAnswer(
        id=f"{label}.1", label=label, own=own, text=f"By {label}.", files=("lists.py",), verify=verify, patch="-a\n+b"
    )


async def test_the_vote_goes_to_the_best_score_and_ties_to_the_first(project: Path) -> None:
    """Each answer is scored by itself with its diff and its test result."""
    model = Small(score=lambda text: 5.0 if "PASS (5 passed)" in text else -5.0)
    answers = (shown("agent2", ok=False), shown("agent3", ok=True), shown("agent1", ok=True, own=True))
    decision = await session(project, model, []).look(view(*answers))
    assert isinstance(decision, Voted)
    assert (decision.label, decision.seen) == ("agent3", ("agent2.1", "agent3.1", "agent1.1"))
    assert "PASS (5 passed)" in decision.reason
    assert model.scored[0] == (
        "Fix of lists.py:\n```diff\n-a\n+b\n```\n\nTest result: FAIL (2 failed, 3 passed)\n\nApprove this fix? Answer yes or no."
    )
    assert len(model.scored) == 3


async def test_what_votes_take_is_counted_too(project: Path) -> None:
    """Each answer that is weighed is a call in the table of tokens; none of them costs."""
    events: list[Event] = []
    await session(project, Small(score=lambda _: 0.5), events).look(
        view(shown("agent2", ok=True), shown("agent1", ok=True, own=True))
    )
    called = [event for event in events if isinstance(event, ModelCalled)]
    assert [(event.usage, event.cost_usd) for event in called] == [(Usage(input_tokens=100, output_tokens=1), 0.0)] * 2


async def test_an_answer_that_comes_during_the_vote_is_weighed_too(project: Path) -> None:
    """The vote claims to have seen what was scored, no less and no more."""
    late = shown("agent2", ok=True)

    def rule(text: str) -> float:
        acting.notify((late, shown("agent1", ok=False, own=True)))
        return 1.0 if "PASS" in text else -1.0

    acting = session(project, Small(score=rule), [])
    decision = await acting.look(view(shown("agent1", ok=False, own=True)))
    assert isinstance(decision, Voted)
    assert (decision.label, decision.seen) == ("agent2", ("agent2.1", "agent1.1"))


def test_an_answer_without_a_test_result_is_judged_by_its_text() -> None:
    """A plain question asks whether the answer is correct and complete."""
    text = approval("6 * 7?", shown("agent2", ok=None))[-1].text
    assert text.startswith("Question:\n6 * 7?\n\nAnswer:\n```\n-a\n+b\n\nBy agent2.\n```")


async def test_the_final_turn_presents_the_own_answer(project: Path) -> None:
    """No model is needed for that; without an own answer there is nothing to present."""
    acting = session(project, Small(), [])
    mine = shown("agent1", ok=True, own=True)
    assert await acting.look(view(mine, phase="final", own="agent1.1")) == Presented(text="By agent1.")
    assert isinstance(await acting.look(view(phase="final")), Failed)
