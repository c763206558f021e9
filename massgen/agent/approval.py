"""Votes of a small model: a score for each answer by itself, never a choice between two.

Asked to choose between A and B, the measured model always names the same letter; asked "approve, yes or no?" with the
test result in front of it, it was right 12 of 12 times. Honest reading: it echoes the test result. So does the reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from massgen.agent import prompts
from massgen.agent.view import Decision, Failed, ShownAnswer, Voted
from massgen.messages import Message

PATCH_CHARS = 4000
TEXT_CHARS = 3000


Ask = Callable[[tuple[Message, ...]], Awaitable[float | None]]
"""How much the model leans to yes; None: that cannot be read."""

Scores = dict[tuple[str, bool], float]
"""What was found before, by answer and whether its test result was known: an answer never changes, so it is asked once."""


async def best(ask: Ask, task: str, current: Callable[[], tuple[ShownAnswer, ...]], scores: Scores) -> Decision:
    """A vote for the best of `current()`, which may grow meanwhile; a tie goes to the first. Raises: ModelError."""
    while missing := [answer for answer in current() if _key(answer) not in scores]:
        scores[_key(missing[0])] = await _score(ask, task, missing[0])
    answers = current()
    if not answers:
        return Failed(why="there are no answers to vote for")
    chosen = max(answers, key=lambda answer: scores[_key(answer)])
    said = ", ".join(f"{answer.label} {scores[_key(answer)]:+.1f}" for answer in answers)
    tested = f"tests {prompts.verdict(chosen.verify)}; " if chosen.verify else ""
    return Voted(label=chosen.label, reason=f"{tested}approval scores: {said}", seen=tuple(answer.id for answer in answers))


def _key(answer: ShownAnswer) -> tuple[str, bool]:
    return answer.id, answer.verify is not None


async def _score(ask: Ask, task: str, answer: ShownAnswer) -> float:
    score = await ask(approval(task, answer))
    if score is None:
        # a model without readable probabilities: the tests decide, and the order after them
        return 0.0 if answer.verify is None else 1.0 if answer.verify.ok else -1.0
    return score


def approval(task: str, answer: ShownAnswer) -> tuple[Message, ...]:
    """The question: a fix is judged by its test result, anything else by its text."""
    if answer.verify is None:
        user = prompts.fill(
            "agree_user", question=task.strip()[:TEXT_CHARS], answer=prompts.fenced(_patch(answer) + answer.text[:TEXT_CHARS])
        )
        return (Message(role="system", text=prompts.fill("agree_system")), Message(role="user", text=user))
    path = answer.files[0] if answer.files else "nothing (no file is changed)"
    diff = prompts.fenced(answer.patch[:PATCH_CHARS] or "(empty)", "diff")
    user = prompts.fill("approve_user", path=path, diff=diff, result=prompts.verdict(answer.verify))
    return (Message(role="system", text=prompts.fill("approve_system")), Message(role="user", text=user))


def _patch(answer: ShownAnswer) -> str:
    return f"{answer.patch[:TEXT_CHARS]}\n\n" if answer.patch else ""
