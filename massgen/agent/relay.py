"""The keeper of one transcript, on the host: it only grows, and nothing from a container writes in it but tool results.

The two coordination calls are taken out of the model's own reply here, so nothing that runs in the container can
forge an answer or a vote. Every call that a model makes gets a result, whatever happens: providers refuse a
transcript with open calls, and a look may be cancelled at any point.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from massgen.agent import prompts
from massgen.agent.compact import TakenOut, compacted
from massgen.agent.tools import ANSWER_TOOL, BODY_TOOLS, NEW_ANSWER, VOTE, vote_tool
from massgen.agent.view import Answered, Decision, Failed, Place, Presented, ShownAnswer, View, Voted
from massgen.messages import Message, Reply, Request, ToolCall, ToolResult, ToolSpec

ATTEMPTS = 3
"""Wrong ends of a turn before the look fails."""

MOST_PICTURES = 50
"""Shown to one agent: all of them stay in its conversation."""

CUT_OFF = "your reply was cut off at its limit of tokens"

_MARK = re.compile(r"`(\[news [0-9a-f]{8}\])`")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a reply does not end the look, and what to do instead."""

    what: str
    remedy: str


Verdict = Answered | Voted | Presented | Problem


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One reply, sorted: what the body is to do, and what it would mean for the look once that is done."""

    work: tuple[ToolCall, ...]
    verdict: Verdict | None
    """None: only work, the look goes on."""
    cut: bool = False
    """The reply ended at its limit of tokens: its last call may be half a call."""


class Relay:
    """One agent's conversation with its model."""

    def __init__(
        self,
        *,
        label: str,
        system_message: str,
        verify: str,
        transcript: tuple[Message, ...] = (),
        labels: tuple[str, ...] = (),
    ) -> None:
        """`labels`: of all agents of the run; given, the list of tools is the same in each of its calls. See `_tools`."""
        known = _MARK.search(transcript[0].text) if transcript else None
        self._mark = known.group(1) if known else f"[news {secrets.token_hex(4)}]"
        text = prompts.system(label=label, system_message=system_message, verify=verify, mark=self._mark)
        # Not the transcript's own first message: it may come from a session that was told something that is over, as planning is.
        self._messages: list[Message] = [Message(role="system", text=text), *transcript[1:]]
        self._label = label
        self._labels = labels
        self._view: View | None = None
        self._places: tuple[Place, ...] | None = None
        self._shown: tuple[ShownAnswer, ...] = ()
        self._latest: str | None = None
        self._pending: tuple[ShownAnswer, ...] | None = None
        self._open: tuple[ToolCall, ...] = ()
        self._attempts = 0
        self._refusals = 0
        self._pictures = 0

    @property
    def transcript(self) -> tuple[Message, ...]:
        """Everything so far."""
        return tuple(self._messages)

    # -- what the model is shown -----------------------------------------------------------------------------

    def begin(self, view: View) -> None:
        """Open a look: one user message."""
        places = view.paths != self._places
        first = len(self._messages) == 1
        final = view.phase == "final"
        text = prompts.final(view, first=first, places=places) if final else prompts.look(view, first=first, places=places)
        self._messages.append(Message(role="user", text=text))
        self._view, self._places, self._shown, self._pending = view, view.paths, view.answers, None
        labels = [answer.label for answer in view.answers if not answer.own] or [answer.label for answer in view.answers]
        self._latest = view.latest or (labels[-1] if labels else None)
        self._attempts = 0

    @property
    def behind(self) -> bool:
        """There is news that the model has not been shown."""
        return self._pending is not None

    def notify(self, answers: tuple[ShownAnswer, ...]) -> None:
        """Peers answered, or a verdict came; shown with the next result."""
        if self._view is not None and self._view.phase == "coordination":
            self._pending = answers

    def request(self, *, temperature: float | None, max_tokens: int | None) -> Request:
        """The next model call."""
        view = self._now()
        own = next((answer.label for answer in self._shown if answer.own), None)
        situation = {"phase": view.phase, "answers": len(self._shown), "own": own, "latest": self._latest}
        return Request(
            messages=self.transcript,
            tools=self._tools(),
            max_tokens=max_tokens,
            temperature=temperature,
            situation=situation,
        )

    def _tools(self) -> tuple[ToolSpec, ...]:
        """What stands first in each request: another list, and a provider reads the whole conversation anew at full price.

        So the vote is offered before there is an answer, and both ends of a turn in the final one; called then, they are refused
        with what to do instead. The labels in it are those of the run: a server that keeps a model to its tools' schemas, as
        llama.cpp does, still lets no other one through. Without them (each look is a conversation of its own) only what is
        possible now is offered.
        """
        if self._labels:
            return (*BODY_TOOLS, ANSWER_TOOL, *((vote_tool(self._labels),) if len(self._labels) > 1 else ()))
        view = self._now()
        ending: tuple[ToolSpec, ...] = ()
        if view.phase == "coordination":
            ending += (ANSWER_TOOL,) if view.may_answer or not self._shown else ()
            ending += (vote_tool(tuple(answer.label for answer in self._shown)),) if self._shown else ()
        return BODY_TOOLS + ending

    def compact(self) -> TakenOut | None:
        """Make room: the oldest tool results give way to a remark. None: there is nothing left that could."""
        shorter = compacted(self.transcript)
        if shorter is not None:
            self._messages[:] = shorter.messages
        return shorter

    def without_pictures(self) -> int:
        """Its model has refused them: none stays, and after a second refusal none is shown any more. How many there were."""
        found = 0
        for at, message in enumerate(self._messages):
            found += sum(len(result.images) for result in message.results)
            if any(result.images for result in message.results):
                self._messages[at] = replace(message, results=tuple(map(_unseen, message.results)))
        self._refusals += found > 0
        return found

    # -- what the model says ---------------------------------------------------------------------------------

    def take(self, reply: Reply) -> Taken:
        """Record a reply and sort its calls. What comes of it is given to `answer_calls` or `enforce`."""
        self._messages.append(reply.as_message())
        self._open = reply.calls
        ending = tuple(call for call in reply.calls if call.name in {NEW_ANSWER, VOTE})
        work = tuple(call for call in reply.calls if call.name not in {NEW_ANSWER, VOTE})
        cut = reply.stop == "length"
        if self._now().phase == "final":
            return Taken(work=work, verdict=self._judge_final(reply, ending, work), cut=cut)
        return Taken(work=work, verdict=self._judge(ending, cut=cut) if ending or not work else None, cut=cut)

    def settle(self, results: Mapping[str, ToolResult], verdict: Verdict | None) -> Decision | None:
        """Record what came of the last reply; the decision when the look is over, None when it goes on.

        Calls without a result are answered as not run. News of peers are put at the end of the last result.
        """
        problem = verdict if isinstance(verdict, Problem) else None
        if problem:
            self._attempts += 1
        said = ""
        if problem:
            said = prompts.enforce(problem.what, problem.remedy, attempt=self._attempts, attempts=ATTEMPTS, mark=self._mark)
        over = verdict is not None and (problem is None or self._attempts >= ATTEMPTS)
        news = "" if over else self._news()
        if self._open:
            self._messages.append(Message(role="tool", results=self._closed(results, problem, said, news)))
        elif problem:
            self._messages.append(Message(role="user", text=said + news))
        self._open = ()
        if problem:
            return Failed(why=f"no valid end of the turn after {ATTEMPTS} attempts: {problem.what}") if over else None
        if over:
            self._view = None
        return None if isinstance(verdict, Problem) else verdict

    def abandon(self) -> None:
        """The look was cut off: close the open calls, so that the transcript can go on. Idempotent."""
        if self._open:
            self._messages.append(Message(role="tool", results=self._closed({}, None, "", "")))
            self._open = ()
        elif self._messages[-1].role == "user":
            self._messages.append(Message(role="assistant", text="[interrupted]"))
        self._view = None

    def _closed(self, results: Mapping[str, ToolResult], problem: Problem | None, said: str, news: str) -> tuple[ToolResult, ...]:
        closed: list[ToolResult] = []
        for call in self._open:
            if call.name in {NEW_ANSWER, VOTE}:
                result = ToolResult(call_id=call.id, text=said or "[recorded]", ok=problem is None)
            else:
                result = results.get(call.id) or ToolResult(call_id=call.id, text="[not run: the turn was interrupted]", ok=False)
                self._pictures += len(result.images)
                result = _unseen(result) if self._refusals > 1 or self._pictures > MOST_PICTURES else result
            closed.append(result)
        if said and not any(call.name in {NEW_ANSWER, VOTE} for call in self._open):
            news = f"\n{said}{news}"
        if news:
            closed[-1] = replace(closed[-1], text=closed[-1].text + news)
        return tuple(closed)

    def _news(self) -> str:
        if self._pending is None:
            return ""
        before, now = self._shown, self._pending
        known = {answer.id for answer in before}
        fresh = [answer.label for answer in now if answer.id not in known]
        self._latest = fresh[-1] if fresh else self._latest
        self._shown, self._pending = now, None
        return prompts.notice(before, now, mark=self._mark)

    def _now(self) -> View:
        if self._view is None:
            message = "no look has begun"
            raise RuntimeError(message)
        return self._view

    # -- what ends a look ------------------------------------------------------------------------------------

    def _judge(self, ending: tuple[ToolCall, ...], *, cut: bool) -> Verdict:
        ways = "end it with `new_answer` or `vote`" if self._shown else "end it with `new_answer`"
        if cut and all(call.bad_args for call in ending):
            return Problem(what=CUT_OFF, remedy=f"Say less in one reply, then {ways}.")
        if not ending:
            return Problem(
                what="you called neither `new_answer` nor `vote`", remedy=f"Text alone is not seen by anybody: {ways}."
            )
        names = {call.name for call in ending}
        if len(names) > 1:
            return Problem(what="you called `new_answer` and `vote` in one reply", remedy="Call exactly one of them, once.")
        if len(ending) > 1:
            return Problem(what=f"you called `{ending[0].name}` {len(ending)} times", remedy="Call it once.")
        call = ending[0]
        if call.bad_args:
            return Problem(what=f"the arguments of `{call.name}` are not a JSON object", remedy="Call it again.")
        return self._judge_answer(call.args) if call.name == NEW_ANSWER else self._judge_vote(call.args)

    def _judge_answer(self, args: Mapping[str, Any]) -> Verdict:
        view = self._now()
        content = args.get("content")
        if not isinstance(content, str) or not content.strip():
            return Problem(what="`new_answer` needs `content`, the text of the answer", remedy="Call it again with the text.")
        if not view.may_answer and self._shown:
            return Problem(what="you have no new answers left", remedy="Vote for the best current answer.")
        return Answered(text=content)

    def _judge_vote(self, args: Mapping[str, Any]) -> Verdict:
        labels = tuple(answer.label for answer in self._shown)
        if not labels:
            return Problem(what="there are no answers to vote for yet", remedy="Work, then call `new_answer`.")
        wanted = str(args.get("agent_id") or "").strip()
        chosen = next((answer.label for answer in self._shown if wanted in {answer.label, answer.id}), None)
        if chosen is None:
            return Problem(what=f"there is no agent {wanted[:60]!r}", remedy=f"Vote for one of: {', '.join(labels)}.")
        reason = str(args.get("reason") or "")
        return Voted(label=chosen, reason=reason, seen=tuple(answer.id for answer in self._shown))

    def _judge_final(self, reply: Reply, ending: tuple[ToolCall, ...], work: tuple[ToolCall, ...]) -> Verdict | None:
        if ending:
            return Problem(what="the vote is over: this is the final turn", remedy="Reply with text only, for the user.")
        if work:
            return None
        if reply.stop == "length" and not self._attempts:
            return Problem(what=CUT_OFF, remedy="Reply again, shorter.")
        if not reply.text.strip():
            return Problem(what="your reply is empty", remedy="Reply with the text for the user.")
        return Presented(text=reply.text + _sources(reply))


def _unseen(result: ToolResult) -> ToolResult:
    """The same without its pictures, which is said."""
    if not result.images:
        return result
    return replace(result, text=f"{result.text}\n[it cannot be shown to you: work with it by commands]", images=())


def _sources(reply: Reply) -> str:
    """What the provider's web search found, for the user: only a model's words name their sources by themselves."""
    unnamed = [source for source in reply.citations if source.url not in reply.text]
    rows = [" ".join(f"- {source.title} {source.url}".split()) for source in unnamed]
    return "\n".join(["", "", "Sources:", *rows]) if rows else ""
