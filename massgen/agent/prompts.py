"""What agents are told: the texts are `prompts/*.md`, this file fills them in.

Everything that comes from another agent goes between fences longer than any run of backticks inside, and headings
are ours: text cannot close its fence, so it cannot pass for ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

from massgen.agent.view import Place, ShownAnswer, ShownVote, View
from massgen.events.types import Verified

SHOWN_TEXT_CHARS = 24_000
"""Of one answer; the whole of it is in `/peers`."""

SHOWN_TAIL_CHARS = 1500
"""Of what a failing verify command printed; more of it is in `verify.json`."""

_MODES = {
    "read": "read-only",
    "later": "read-only for now: say in your answer what is to be changed; who wins the vote changes it in the final turn",
    "draft": "your private writable copy of the user's own, which cannot change; your changes go with your answer",
    "write": "the real project: what you write here is final",
}


def fenced(text: str, name: str = "") -> str:
    """Foreign text between marks that it cannot forge."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{name}\n{text.rstrip()}\n{fence}"


def system(*, label: str, system_message: str, verify: str, mark: str) -> str:
    """The one system message of a transcript. `mark`: how our own lines in tool results begin; no container knows it.

    What differs between agents stands last: a model that several of them share has read the rest already.
    """
    own = f"{system_message.strip()}\n\n" if system_message.strip() else ""
    check = f"- The user checks answers with this command: `{verify}`. Run it before you hand in.\n" if verify else ""
    return fill("system", system_message=own, label=label, verify=check, mark=mark)


def planned(system_message: str, plan: str | None) -> str:
    """An agent's own system message, in planning mode with what that means. `plan`: None without it, empty for our words."""
    return system_message if plan is None else f"{system_message}\n\n{fill('planning', plan=plan or fill('plan'))}".strip()


def look(view: View, *, first: bool, places: bool) -> str:
    """The user message that opens a look of coordination. `places`: list the context paths."""
    if view.answers and view.may_answer:
        ending = "Now work, then end your turn with `new_answer` or `vote`."
    elif view.answers:
        ending = "You have no new answers left: compare the answers and end your turn with `vote`."
    else:
        ending = "There are no answers yet. Work, then end your turn with `new_answer`."
    return fill(
        "look",
        opening=_task(view.task) if first else "The current answers have changed or the agents were asked to look again.\n\n",
        places=_places(view.paths) if places else "",
        answers=answers(view.answers) + "\n\n" if view.answers else "",
        base=_base(view.base),
        remark=f"{view.remark}\n\n" if view.remark else "",
        votes=_votes(view.votes) + "\n\n" if view.votes else "",
        ending=ending,
    )


def final(view: View, *, first: bool, places: bool) -> str:
    """The user message of the final turn. `first`: the conversation is lost, so its own answer is new to the model, too."""
    return fill(
        "final",
        own=view.own or "",
        places="\n\n" + _places(view.paths).rstrip() if places else "",
        answers=answers(tuple(answer for answer in view.answers if first or not answer.own)),
        votes="\n\n" + _votes(view.votes) if view.votes else "",
        remark=f"\n\n{view.remark}" if view.remark else "",
        task=_task(view.task),
    )


def resumed() -> str:
    """The remark that opens the first look after the run had died."""
    return fill("resumed")


def debate(*, share: float, wanted: float, number: int, rounds: int) -> str:
    """Why all look again: the remark that opens a round of debate."""
    return fill("debate", share=f"{share:.0%}", wanted=f"{wanted:.0%}", round=str(number), rounds=str(rounds))


def notice(before: Sequence[ShownAnswer], now: Sequence[ShownAnswer], *, mark: str) -> str:
    """What is added to a tool result when peers answered meanwhile: what is new, and what of the known still stands."""
    known = {answer.id: answer for answer in before}
    parts = [_answer(answer) if answer.id not in known else _stands(answer, known[answer.id]) for answer in now]
    return "\n" + fill("notice", mark=mark, answers="\n\n".join(parts))


def enforce(problem: str, remedy: str, *, attempt: int, attempts: int, mark: str) -> str:
    """What a model is told that ended its turn wrongly."""
    return fill("enforce", mark=mark, problem=problem, remedy=remedy, attempt=str(attempt), attempts=str(attempts))


def answers(shown: Sequence[ShownAnswer]) -> str:
    """The current answers, fenced."""
    return "\n\n".join(_answer(answer) for answer in shown) or "There are no other answers."


def verdict(verify: Verified | None) -> str:
    """`PASS (5 passed)`, `FAIL (2 failed, 3 passed)`, `FAIL (timeout)`; empty when nothing was run."""
    if verify is None:
        return ""
    counts = [verify.figure(verify.failed, "failed")] if verify.failed else []
    counts += [verify.figure(verify.passed, "passed")] if verify.passed is not None else []
    if verify.ok:
        return f"PASS ({counts[-1]})" if verify.passed is not None else "PASS"
    known = verify.failed or verify.passed is not None
    return f"FAIL ({', '.join(counts) if known else verify.summary})"


def _answer(answer: ShownAnswer) -> str:
    text = answer.text
    if len(text) > SHOWN_TEXT_CHARS:
        text = text[:SHOWN_TEXT_CHARS] + f"\n[cut; all of it is in /peers/{answer.id}/answer.md]"
    lines = [_head(answer)]
    if answer.files:
        more = f" and {len(answer.files) - 30} more" if len(answer.files) > 30 else ""
        lines.append("changes:\n" + fenced("\n".join(answer.files[:30]) + more))
    if answer.verify:
        lines.append(_verified(answer.verify))
    return "\n".join([*lines, fenced(text, "answer")])


def _head(answer: ShownAnswer) -> str:
    return f"Answer {answer.id} by {answer.label}" + (" (your own)" if answer.own else "")


def _verified(verify: Verified) -> str:
    tests = "; it changes test files" if verify.tests_changed else ""
    said = verify.tail.strip()[-SHOWN_TAIL_CHARS:] if not verify.ok else ""
    return f"verify: {verdict(verify)}{tests}" + (f"; the end of its output:\n{fenced(said, 'output')}" if said else "")


def _stands(answer: ShownAnswer, before: ShownAnswer) -> str:
    """An answer that was shown before, in one line, with its verdict when that is new."""
    news = f"\n{_verified(answer.verify)}" if answer.verify and not before.verify else ""
    return f"{_head(answer)}: as you know it{news}"


def _base(verify: Verified | None) -> str:
    """Only what surprises: a command that passes on the project as it was needs no word."""
    return "" if verify is None or verify.ok else f"On the untouched project the verify command says: {verdict(verify)}.\n\n"


def _votes(votes: Sequence[ShownVote]) -> str:
    return "\n".join(f"Vote of {vote.voter} for {vote.label}:\n{fenced(vote.reason, 'reason')}" for vote in votes)


def _task(task: str) -> str:
    return f"The task, from the user:\n\n{task.strip()}\n\n"


def _places(places: Sequence[Place]) -> str:
    if not places:
        return ""
    return "Paths of the user that you see:\n" + "".join(f"- `{p.path}`: {_MODES[p.mode]}\n" for p in places) + "\n"


@cache
def _template(name: str) -> str:
    return (resources.files("massgen") / "agent" / "prompts" / f"{name}.md").read_text(encoding="utf-8")


def fill(name: str, /, **values: str) -> str:
    """One pass: a value that contains `{{…}}` stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match.group(1)], _template(name)).strip()
