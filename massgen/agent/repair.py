"""The strategy for a small local model: tests, one located function, one corrected function, tests again.

A model of 1.5 billion weights cannot carry code through tool arguments (1 of 30), but it can write one function in a
fenced block (20 of 20 small bugs within three tries); so everything else is ours. The host only asks the model and
sends acts; running tests, finding functions and splicing happen in the container, because they read what agents wrote.
Attempts ask the *same* prompt again at a higher temperature: showing the model its failure makes it repeat it.
Votes are pointwise scores of each answer by its test result (`approval.py`). Every look is a fresh prompt.
"""

from __future__ import annotations

import math
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from massgen.agent.acting import perform
from massgen.agent.approval import Scores, best
from massgen.agent.calls import Caller
from massgen.agent.circuit import Circuit
from massgen.agent.endpoint import Act, BodyLost, Endpoint, open_endpoint
from massgen.agent.excerpt import Excerpt, Suspect, excerpt, longest_block, question, read_suspects
from massgen.agent.testrun import DEFAULT_COMMAND, TestRun
from massgen.agent.view import Answered, Box, Decision, Emit, Failed, HandIn, Presented, ShownAnswer, View
from massgen.errors import ModelError
from massgen.events.types import Notice, RepairAttempted
from massgen.messages import Message, Reply, Request, ToolResult
from massgen.models.base import Model

ATTEMPTS = 3
RETRY_TEMPERATURE = 0.8
LEAST_TEST_S = 10.0
"""A wrong fix loops for ever: tries get this, or three times what the first run took."""

PLAIN_TOKENS = 600
FILE_BYTES = 4 * 1024 * 1024
ENV = {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": "--tb=short"}


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """What all attempts of a look start from."""

    before: TestRun
    limit_s: float
    """Deadline of one test run."""


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A suspect whose code fits a prompt."""

    suspect: Suspect
    text: str
    """The whole file, to be put back."""
    part: Excerpt


@dataclass(frozen=True, kw_only=True)
class _Try:
    """One fix that ran."""

    suspect: Suspect
    args: Mapping[str, Any]
    run: TestRun


class RepairSession:
    """A `Session` (see view.py) whose looks share nothing but the container."""

    def __init__(
        self,
        *,
        label: str,
        model: Model,
        box: Box,
        emit: Emit,
        system_message: str = "",
        cwd: str | None = None,
        verify: str = "",
        transcript: tuple[Message, ...] = (),
        temperature: float | None = None,
        first_run_timeout_s: float = 120.0,
        deadline: float = math.inf,
        circuit: Circuit | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._caller = Caller(label=label, model=model, emit=emit, deadline=deadline, circuit=circuit, sleep=sleep)
        self._label = label
        self._box = box
        self._emit = emit
        self._system_message = system_message
        self._cwd = cwd
        self._command = verify.strip() or DEFAULT_COMMAND
        self._messages = transcript
        self._temperature = temperature or 0.0
        self._first_run_timeout_s = first_run_timeout_s
        self._body: Endpoint | None = None
        self._acts = 0
        self._answers: tuple[ShownAnswer, ...] = ()
        self._scores: Scores = {}

    @property
    def transcript(self) -> tuple[Message, ...]:
        """Every prompt and reply, one after the other; for the record, the next look does not use it."""
        return self._messages

    @property
    def behind(self) -> bool:
        """Never: what was notified is weighed in the next vote."""
        return False

    def notify(self, answers: tuple[ShownAnswer, ...]) -> None:
        """Peers answered: a vote in progress weighs them too."""
        self._answers = answers

    async def interrupt(self, why: str) -> None:
        """Stop the command that runs now."""
        if self._body is not None:
            await self._body.interrupt(why)

    async def look(self, view: View, *, hand_in: HandIn | None = None) -> Decision:
        """An answer first, afterwards votes; also where its answer is no news, as models of a kind find the same fix."""
        self._answers = view.answers
        try:
            decision = await self._decide(view)
            wrong = await hand_in(decision.text) if isinstance(decision, Answered) and hand_in else ""
            if not wrong:
                return decision
            return await self._vote(view) if self._answers else Failed(why=wrong)
        except ModelError as error:
            return _failed(error)

    async def _vote(self, view: View) -> Decision:
        return await best(self._caller.score, view.task, lambda: self._answers, self._scores)

    async def _decide(self, view: View) -> Decision:
        own = next((answer for answer in view.answers if answer.own), None)
        if view.phase == "final":
            return Presented(text=own.text) if own else Failed(why="there is no answer of its own to present")
        try:
            if view.answers and (own is not None or not view.may_answer):
                return await self._vote(view)
            if not any(place.mode in ("draft", "write") for place in view.paths):
                return await self._plain(view, "")
            async with open_endpoint(self._box, cwd=self._cwd, env=ENV, command_timeout_s=self._first_run_timeout_s) as body:
                self._body = body
                return await self._guarded(body, view)
        finally:
            self._body = None

    async def _guarded(self, body: Endpoint, view: View) -> Decision:
        """What a task group would otherwise wrap."""
        try:
            return await self._repair(body, view)
        except (ModelError, BodyLost) as error:
            return _failed(error)

    # -- repair ----------------------------------------------------------------------------------------------

    async def _repair(self, body: Endpoint, view: View) -> Decision:
        before = await self._test(body, self._first_run_timeout_s)
        if before.nothing:
            return await self._plain(view, "The project has no tests that can be run.")
        if before.ok:
            return await self._plain(view, f"The project's tests pass already: {before.verdict}.")
        located = await self._act(body, "locate", output=before.text)
        suspects = read_suspects(located.text) if located.ok else ()
        limit_s = min(self._first_run_timeout_s, max(LEAST_TEST_S, 3 * before.seconds))
        ground = _Ground(before=before, limit_s=limit_s)
        tries: list[_Try] = []
        usable = [shown for suspect in suspects if (shown := await self._shown(body, suspect))]
        attempts = ATTEMPTS if usable else 0
        for attempt in range(attempts):
            # the last attempt goes to the second suspect: two misses on the first are evidence
            shown = usable[1 if attempt == ATTEMPTS - 1 and len(usable) > 1 else 0]
            tried = await self._attempt(body, attempt, shown, ground)
            if tried and tried.run.ok:
                return Answered(text=self._report(tried, before, attempt + 1))
            tries += [tried] if tried else []
        if not attempts:
            self._emit(Notice(agent=self._label, text="The failing tests point to no function that can be shown to the model."))
            return await self._plain(view, f"The project's tests fail: {before.verdict}.")
        return await self._best_try(body, tries, before, attempts)

    async def _shown(self, body: Endpoint, suspect: Suspect) -> _Shown | None:
        """The suspect with its file; None when that is not text or the function is too long."""
        read = await self._act(body, "read_file", path=suspect.path, max_bytes=FILE_BYTES)
        if not read.ok or read.truncated_bytes or "\ufffd" in read.text:
            return None
        part = excerpt(read.text, suspect)
        return _Shown(suspect=suspect, text=read.text, part=part) if part else None

    async def _attempt(self, body: Endpoint, attempt: int, shown: _Shown, ground: _Ground) -> _Try | None:
        """One question, one splice, one test run; the file is as before afterwards unless the tests pass."""
        suspect, text, part = shown.suspect, shown.text, shown.part
        reply = await self._ask(
            question(suspect, part, ground.before.text, self._command),
            max_tokens=part.answer_tokens,
            temperature=self._temperature if attempt == 0 else RETRY_TEMPERATURE,
            seed=_seed(self._label, attempt),
        )
        code = longest_block(reply.text)
        if not code or _squeezed(code) in _squeezed(text):
            detail = "the reply changes nothing" if code else "the reply contains no code"
            self._tell(attempt, suspect.path, suspect.name, "unusable", detail)
            return None
        args = {"path": suspect.path, "code": code, "keep_docstring": part.doc_hidden}
        spliced = await self._splice(body, suspect, args)
        if not spliced.ok:
            self._tell(attempt, suspect.path, suspect.name, "unusable", spliced.text[:300])
            return None
        named = re.match(r"replaced (.{1,200}?) in ", spliced.text)
        run = await self._test(body, ground.limit_s)
        self._tell(attempt, suspect.path, named.group(1) if named else suspect.name, "pass" if run.ok else "fail", run.verdict)
        if not run.ok:
            restored = await self._act(body, "write_file", path=suspect.path, content=text)
            if not restored.ok:
                message = f"could not restore {suspect.path} after a failed try: {restored.text[:200]}"
                raise BodyLost(message)
        return _Try(suspect=suspect, args=args, run=run)

    async def _splice(self, body: Endpoint, suspect: Suspect, args: Mapping[str, Any]) -> ToolResult:
        """By the located name when the reply has such a function, else by the names that it has."""
        last = suspect.name.rsplit(".", 1)[-1]
        if re.search(rf"\bdef {re.escape(last)}\b", args["code"]):
            result = await self._act(body, "replace_function", **args, name=suspect.name)
            if result.ok:
                return result
        return await self._act(body, "replace_function", **args)

    async def _best_try(self, body: Endpoint, tries: list[_Try], before: TestRun, attempted: int) -> Decision:
        """The try with the fewest failures, when that is progress; a change that helps nobody is not handed in."""
        better = [tried for tried in tries if tried.run.better_than(before)]
        chosen: _Try | None = None
        for tried in better:
            if chosen is None or tried.run.better_than(chosen.run):
                chosen = tried
        if chosen is None or not (await self._splice(body, chosen.suspect, chosen.args)).ok:
            text = f"I could not repair this: {attempted} attempts, no fix made more tests pass. No file is changed.\n"
            return Answered(text=f"{text}`{self._command}`: {before.verdict}.")
        return Answered(text=self._report(chosen, before, attempted))

    def _report(self, tried: _Try, before: TestRun, attempted: int) -> str:
        done = "Repaired" if tried.run.ok else "Improved, not repaired:"
        code = tried.args["code"].strip("\n")
        return (
            f"{done} `{tried.suspect.name}` in {tried.suspect.path} (attempt {attempted} of {ATTEMPTS}).\n"
            f"`{self._command}`: {tried.run.verdict}; before: {before.verdict}.\n\n```python\n{code}\n```"
        )

    async def _plain(self, view: View, found: str) -> Decision:
        """An answer in words. What is agent-specific comes last: agents that share a server share the prefix."""
        task = f"{view.task.strip()}\n\n{found}".strip()
        messages = [Message(role="user", text=task)]
        if self._system_message.strip():
            messages.insert(0, Message(role="system", text=self._system_message.strip()))
        seed = _seed(self._label, 0)
        reply = await self._ask(tuple(messages), max_tokens=PLAIN_TOKENS, temperature=self._temperature, seed=seed)
        return Answered(text=reply.text.strip()) if reply.text.strip() else Failed(why="the model gave an empty answer")

    # -- the two things it does ------------------------------------------------------------------------------

    async def _ask(self, messages: tuple[Message, ...], *, max_tokens: int, temperature: float, seed: int) -> Reply:
        request = Request(
            messages=messages,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            situation={"phase": "coordination", "answers": len(self._answers), "own": None, "latest": None},
        )
        reply = await self._caller.complete(request)
        self._messages = (*self._messages, *messages, reply.as_message())
        return reply

    async def _act(self, body: Endpoint, tool: str, /, **args: Any) -> ToolResult:  # noqa: ANN401 - JSON
        self._acts += 1
        act = Act(id=f"repair-{self._acts}", name=tool, args=args)
        return await perform(body, act, label=self._label, emit=self._emit)

    async def _test(self, body: Endpoint, limit_s: float) -> TestRun:
        started = time.monotonic()
        result = await self._act(body, "shell", command=self._command, timeout_s=math.ceil(limit_s))
        return TestRun(
            ok=result.ok and result.exit_code in {0, None},
            text=result.text,
            exit_code=result.exit_code,
            seconds=time.monotonic() - started,
        )

    def _tell(self, attempt: int, path: str, function: str, outcome: str, detail: str) -> None:
        kind: Any = outcome
        self._emit(RepairAttempted(agent=self._label, attempt=attempt, path=path, function=function, outcome=kind, detail=detail))


def _failed(error: Exception) -> Failed:
    return Failed(why=str(error), fatal=isinstance(error, ModelError) and error.lasting)


def _seed(label: str, attempt: int) -> int:
    """Own for each agent and attempt, the same in every run."""
    return zlib.crc32(label.encode()) % 100_000 * 10 + attempt


def _squeezed(text: str) -> str:
    return " ".join(text.split())
