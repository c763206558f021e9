"""What agents are told: the texts are `prompts/*.md`, this file fills them in.

Everything that comes from another agent goes between fences longer than any run of backticks inside, and headings
are ours: text cannot close its fence, so it cannot pass for ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

from massgen.agent.view import Place, ShownAnswer, View

SHOWN_TEXT_CHARS = 24_000
"""Of one answer; the whole of it is in `/peers`."""

_MODES = {
    "read": "read-only",
    "draft": "your private writable copy of the user's own, which cannot change; your changes go with your answer",
    "write": "the real project: what you write here is final",
}


def fenced(text: str, name: str = "") -> str:
    """Foreign text between marks that it cannot forge."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{name}\n{text.rstrip()}\n{fence}"


def system(*, label: str, system_message: str, verify: str) -> str:
    """The one system message of a transcript."""
    own = f"{system_message.strip()}\n\n" if system_message.strip() else ""
    check = f"- The user checks answers with this command: `{verify}`. Run it before you hand in.\n" if verify else ""
    return fill("system", system_message=own, label=label, verify=check)


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
        remark=f"{view.remark}\n\n" if view.remark else "",
        ending=ending,
    )


def final(view: View, *, places: bool) -> str:
    """The user message of the final turn."""
    votes = "\n".join(f"Vote of {label}:\n{fenced(reason)}" for label, reason in view.votes)
    return fill(
        "final",
        own=view.own or "",
        places="\n\n" + _places(view.paths).rstrip() if places else "",
        answers=answers(tuple(answer for answer in view.answers if not answer.own)),
        votes="\n" + votes if votes else "",
        task=_task(view.task),
    )


def notice(shown: Sequence[ShownAnswer]) -> str:
    """What is added to a tool result when peers answered meanwhile."""
    return "\n" + fill("notice", answers=answers(shown))


def enforce(problem: str, remedy: str, *, attempt: int, attempts: int) -> str:
    """What a model is told that ended its turn wrongly."""
    return fill("enforce", problem=problem, remedy=remedy, attempt=str(attempt), attempts=str(attempts))


def answers(shown: Sequence[ShownAnswer]) -> str:
    """The current answers, fenced."""
    return "\n\n".join(_answer(answer) for answer in shown) or "There are no other answers."


def verdict(answer: ShownAnswer) -> str:
    """`PASS (5 passed)`, `FAIL (2 failed, 3 passed)`, `FAIL (timeout)`; empty when nothing was run."""
    verify = answer.verify
    if verify is None:
        return ""
    counts = [f"{verify.failed} failed"] if verify.failed else []
    counts += [f"{verify.passed} passed"] if verify.passed is not None else []
    if verify.ok:
        return f"PASS ({counts[-1]})" if verify.passed is not None else "PASS"
    known = verify.failed or verify.passed is not None
    return f"FAIL ({', '.join(counts) if known else verify.summary})"


def _answer(answer: ShownAnswer) -> str:
    text = answer.text
    if len(text) > SHOWN_TEXT_CHARS:
        text = text[:SHOWN_TEXT_CHARS] + f"\n[cut; all of it is in /peers/{answer.id}/answer.md]"
    head = f"Answer {answer.id} by {answer.label}" + (" (your own)" if answer.own else "")
    lines = [head]
    if answer.files:
        more = f" and {len(answer.files) - 30} more" if len(answer.files) > 30 else ""
        lines.append("changes:\n" + fenced("\n".join(answer.files[:30]) + more))
    if answer.verify:
        tests = "; it changes test files" if answer.verify.tests_changed else ""
        lines.append(f"verify: {verdict(answer)}{tests}")
    return "\n".join([*lines, fenced(text, "answer")])


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
