"""The strategy for models that can call tools: ask the model, let the body act, until the look is decided.

The budget of a look is time, which its caller owns; `MAX_CALLS` only ends a model that goes in circles.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import anyio

from massgen.agent.acting import perform
from massgen.agent.calls import Caller
from massgen.agent.circuit import Circuit
from massgen.agent.endpoint import Act, BodyLost, Endpoint, open_endpoint
from massgen.agent.relay import CUT_OFF, Problem, Relay, Taken, Verdict
from massgen.agent.tools import BODY_TOOLS
from massgen.agent.view import Answered, Box, Decision, Emit, Failed, HandIn, ShownAnswer, View
from massgen.errors import ContextOverflow, ModelError, PicturesRefused
from massgen.events.types import Compacted, Notice
from massgen.messages import Message, Reply, Request, ToolCall, ToolResult
from massgen.models.base import Model

MAX_CALLS = 250
"""Model calls in one look."""

_KNOWN = frozenset(tool.name for tool in BODY_TOOLS)


class LoopSession:
    """A `Session` (see view.py) that keeps one transcript over all its looks."""

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
        labels: tuple[str, ...] = (),
        temperature: float | None = None,
        max_tokens: int | None = None,
        command_timeout_s: float = 120.0,
        deadline: float = math.inf,
        circuit: Circuit | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._relay = Relay(label=label, system_message=system_message, verify=verify, transcript=transcript, labels=labels)
        self._caller = Caller(label=label, model=model, emit=emit, deadline=deadline, circuit=circuit, sleep=sleep)
        self._label = label
        self._box = box
        self._emit = emit
        self._cwd = cwd
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._command_timeout_s = command_timeout_s
        self._body: Endpoint | None = None

    @property
    def transcript(self) -> tuple[Message, ...]:
        """What the model has seen and said."""
        return self._relay.transcript

    @property
    def behind(self) -> bool:
        """News wait for the end of a command."""
        return self._relay.behind

    def notify(self, answers: tuple[ShownAnswer, ...]) -> None:
        """Peers answered during a look."""
        self._relay.notify(answers)

    async def interrupt(self, why: str) -> None:
        """Stop the command that runs now."""
        if self._body is not None:
            await self._body.interrupt(why)

    async def look(self, view: View, *, hand_in: HandIn | None = None) -> Decision:
        """One look, from the view to a decision."""
        self._relay.begin(view)
        try:
            async with open_endpoint(self._box, cwd=self._cwd, command_timeout_s=self._command_timeout_s) as body:
                self._body = body
                return await self._until_decided(body, hand_in)
        finally:
            self._body = None
            self._relay.abandon()

    async def _until_decided(self, body: Endpoint, hand_in: HandIn | None) -> Decision:
        try:
            for _ in range(MAX_CALLS):
                taken = self._relay.take(await self._asked())
                results = await self._work(body, taken)
                decision = self._relay.settle(results, await handed_in(taken.verdict, hand_in))
                if decision is not None:
                    return decision
        except ModelError as error:
            return Failed(why=str(error), fatal=error.lasting)
        except BodyLost as error:
            return Failed(why=str(error))
        return Failed(why=f"no end of the turn after {MAX_CALLS} model calls")

    async def _asked(self) -> Reply:
        """The next reply; a conversation that is too long, or shows what the model does not take, is asked once more without.

        Raises: ModelError.
        """
        try:
            return await self._caller.complete(self._request())
        except ContextOverflow:
            taken_out = self._relay.compact()
            if taken_out is None:
                raise
            self._emit(Compacted(agent=self._label, results=taken_out.results, chars=taken_out.chars))
            return await self._caller.complete(self._request())
        except PicturesRefused as error:
            if not (number := self._relay.without_pictures()):
                raise
            self._emit(Notice(agent=self._label, text=f"goes on without {number} picture(s): {error}", level="warning"))
            return await self._caller.complete(self._request())

    def _request(self) -> Request:
        return self._relay.request(temperature=self._temperature, max_tokens=self._max_tokens)

    async def _work(self, body: Endpoint, taken: Taken) -> dict[str, ToolResult]:
        """Run the calls one by one: each is shown to the user as it happens."""
        results: dict[str, ToolResult] = {}
        for call in taken.work:
            act = Act(id=call.id, name=call.name, args=call.args)
            results[call.id] = await perform(body, act, label=self._label, emit=self._emit, refused=_refused(call, cut=taken.cut))
        return results


async def handed_in(verdict: Verdict | None, hand_in: HandIn | None) -> Verdict | None:
    """After the tools of the same reply: the files that go with an answer are those that they left."""
    if not isinstance(verdict, Answered) or hand_in is None:
        return verdict
    wrong = await hand_in(verdict.text)
    return Problem(what=wrong, remedy="Improve on what is there, or vote for the best answer.") if wrong else verdict


def _refused(call: ToolCall, *, cut: bool) -> ToolResult | None:
    """What never reaches the body: unknown names (models invent them) and arguments that are not JSON."""
    if call.name not in _KNOWN:
        text = f"There is no tool {call.name[:60]!r}. There are: {', '.join(sorted(_KNOWN))}."
        return ToolResult(call_id=call.id, text=text, ok=False)
    if call.bad_args and cut:
        text = f"In the middle of this call {CUT_OFF}; it was not run. Do it in smaller parts."
        return ToolResult(call_id=call.id, text=text, ok=False)
    if call.bad_args:
        return ToolResult(call_id=call.id, text="The arguments are not a JSON object. Call again.", ok=False)
    return None
