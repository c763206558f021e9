"""The strategy for an agent that is a program of its own, in the container, its calls made by the host.

Each look is one run of the program (`programs.py`), with the whole prompt on its stdin. It finds one port of its container: there
is its provider (a reader of its protocol takes what it asks, and the same caller as for any other agent makes the call, with key,
budget and patience) and an MCP server with `new_answer` and `vote`. What the model said and did is taken from the calls as they
pass, not from the program's output, which anything in the container can write; `witness.py` says which coordination calls count.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import anyio
import h11

from massgen.agent import mcp_door
from massgen.agent.calls import Caller
from massgen.agent.endpoint import FAILURES
from massgen.agent.httpd import Answer, Asked, Flooded, Gate, talk
from massgen.agent.loop import handed_in
from massgen.agent.notaken import NotTaken
from massgen.agent.programs import Program
from massgen.agent.relay import Relay
from massgen.agent.tools import NEW_ANSWER, VOTE, summary
from massgen.agent.view import Box, Decision, Emit, Failed, HandIn, ShownAnswer, View
from massgen.agent.witness import Witness
from massgen.config.model import ProgramConfig
from massgen.errors import ModelError
from massgen.events.types import Notice, ToolFinished, ToolStarted
from massgen.messages import Message, Reply, Request, ToolSpec
from sandbox import Connection

TAIL_BYTES = 4096
EVENT_TEXT_CHARS = 4096
STRANGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""How a reader of strange words fails that nobody thought of."""
MAX_CALLS = 500
"""Model calls in one look, refused ones among them: twice a loop's, as programs ask beside their work, too."""
FORGERIES_SHOWN = 3
"""Of one look; a shell can report calls by the thousand, and each would be kept in the log."""


class CliSession:
    """A `Session` (see view.py) of a program; every look begins a conversation."""

    def __init__(
        self,
        *,
        label: str,
        program: Program,
        settings: ProgramConfig,
        caller: Caller,
        box: Box,
        emit: Emit,
        system_message: str,
        cwd: str | None,
        verify: str,
        max_tokens: int | None,
    ) -> None:
        self._label = label
        self._program = program
        self._settings = settings
        self._caller = caller
        self._box = box
        self._emit = emit
        self._system_message = system_message
        self._cwd = cwd
        self._verify = verify
        self._max_tokens = max_tokens
        self._relay = self._fresh()

    def _fresh(self) -> Relay:
        return Relay(label=self._label, system_message=self._system_message, verify=self._verify)

    @property
    def transcript(self) -> tuple[Message, ...]:
        """Of the last look: what it was shown, and how it ended."""
        return self._relay.transcript

    @property
    def behind(self) -> bool:
        """News wait for its next coordination call."""
        return self._relay.behind

    def notify(self, answers: tuple[ShownAnswer, ...]) -> None:
        """Told with its next coordination call, which then does not count."""
        self._relay.notify(answers)

    async def interrupt(self, why: str) -> None:
        """Its commands are its own: it hears of the news when it votes."""

    async def look(self, view: View, *, hand_in: HandIn | None = None) -> Decision:
        """One look: one run of the program, or up to three when it ends without an end."""
        self._relay = self._fresh()
        self._relay.begin(view)
        prompt = "\n\n".join(message.text for message in self._relay.transcript)
        turn = _Turn(
            relay=self._relay,
            prompt=prompt,
            program=self._program,
            caller=self._caller,
            label=self._label,
            emit=self._emit,
            hand_in=hand_in,
            max_tokens=self._max_tokens,
        )
        remark = ""
        try:
            while True:
                ended = await self._run(turn, prompt + remark)
                if turn.decision is not None:
                    return turn.decision
                if turn.fault is not None:
                    return Failed(why=str(turn.fault), fatal=turn.fault.lasting)
                if ended:
                    return Failed(why=ended)
                decision = turn.left_alone()
                if decision is not None:
                    return decision
                remark = "\n\n" + self._relay.transcript[-1].text
        except FAILURES as error:
            return Failed(why=f"{self._program.name} in the container ended: {error}")
        finally:
            self._relay.abandon()

    async def _run(self, turn: _Turn, prompt: str) -> str:
        """The program, until it ends or the turn is decided. Why it failed, or nothing."""
        tail = b""
        async with self._box.serve(turn.connected) as port:
            address, model = f"http://127.0.0.1:{port}", self._caller.model.name
            start = self._program.start(address=address, model=model, settings=self._settings)
            async with self._box.spawn(start.argv, cwd=self._cwd, env=start.env) as program, anyio.create_task_group() as tasks:

                async def stop() -> None:
                    await turn.over.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(stop)
                await program.send(prompt.encode())
                await program.end_stdin()
                try:
                    while True:
                        tail = (tail + (await program.receive())[1])[-TAIL_BYTES:]
                except anyio.EndOfStream:
                    tasks.cancel_scope.cancel()
        outcome = program.outcome
        if outcome is None or outcome.ok:
            return ""
        words = tail.decode("utf-8", "replace").strip().splitlines()
        said = outcome.why or (words[-1][-400:] if words else "")
        return f"{self._program.name} ended with {outcome.reason} {outcome.exit_code}: {said}"


class _Turn:
    """What happens on the port during one look."""

    def __init__(
        self,
        *,
        relay: Relay,
        prompt: str,
        program: Program,
        caller: Caller,
        label: str,
        emit: Emit,
        hand_in: HandIn | None,
        max_tokens: int | None,
    ) -> None:
        self.decision: Decision | None = None
        self.fault: ModelError | None = None
        self.over = anyio.Event()
        self._relay = relay
        self._program = program
        self._witness = Witness(prompt, prefix=program.prefix)
        self._caller = caller
        self._label = label
        self._emit = emit
        self._hand_in = hand_in
        self._max_tokens = max_tokens
        self._running: dict[str, tuple[str, float]] = {}
        self._one = anyio.Lock()
        self._gate = Gate()
        self._asks = 0
        self._forgeries = 0

    async def connected(self, connection: Connection) -> None:
        """One connection from the container. What goes wrong with it is this look's end at most, never the run's."""
        try:
            await talk(connection, self._answer, self._gate)
        except (Flooded, h11.LocalProtocolError, *STRANGE) as error:
            known = isinstance(error, Flooded)
            self._end(ModelError(str(error) if known else f"a request from its container could not be answered ({error!r:.200})"))

    def _end(self, fault: ModelError) -> None:
        self.fault = self.fault or fault
        self.over.set()

    def left_alone(self) -> Decision | None:
        """The program ended by itself: its last words are the reply that ends the turn, or do not."""
        taken = self._relay.take(Reply(text=self._witness.last_text))
        return self._relay.settle({}, taken.verdict)

    async def _answer(self, asked: Asked) -> Answer:
        if asked.path == "/mcp":
            return await mcp_door.answer(asked, self._tools(), self._called)
        if self._program.asks(asked):
            return await self._model(asked)
        return self._program.refused("there is no such address here", missing=True)

    def _tools(self) -> list[ToolSpec]:
        tools = self._relay.request(temperature=None, max_tokens=None).tools if self.decision is None else ()
        return [tool for tool in tools if tool.name in (NEW_ANSWER, VOTE)]

    # -- its model -------------------------------------------------------------------------------------------

    async def _model(self, asked: Asked) -> Answer:
        async with self._one:  # reading, too: a body in our language is a dozen times as large
            self._asks += 1
            if self._asks > MAX_CALLS:
                self._end(ModelError(f"no end of the turn after {MAX_CALLS} model calls"))
            if self.over.is_set():
                return self._program.refused("the turn is over")
            try:
                model, request = self._program.read(asked)
            except NotTaken as error:
                return self._program.refused(str(error))
            own = self._program.called(self._caller.model.name)
            if model != own:
                return self._program.refused(f"only the model {own} is answered here", missing=True)
            return await self._asked(asked, request)

    async def _asked(self, asked: Asked, request: Request) -> Answer:
        witnessed = self._witness.extends(request)
        if witnessed:
            self._results(request)
        wanted = min(filter(None, (request.max_tokens, self._max_tokens)), default=None)
        try:
            reply = await self._caller.complete(Request(messages=request.messages, tools=request.tools, max_tokens=wanted))
        except ModelError as error:
            if witnessed:
                self._end(error)
            return self._program.refused(str(error))
        if witnessed:
            self._witness.passed(reply)
            self._calls(reply)
        return self._program.told(reply, asked, model=self._program.called(self._caller.model.name))

    def _calls(self, reply: Reply) -> None:
        for call in reply.calls:
            if not call.name.startswith(self._program.prefix):
                self._running[call.id] = (call.name, time.monotonic())
                line = summary(call.name, self._program.shown(call.args))
                self._emit(ToolStarted(agent=self._label, call_id=call.id, name=call.name, summary=line))

    def _results(self, request: Request) -> None:
        for result in (result for message in request.messages for result in message.results):
            name, began = self._running.pop(result.call_id, ("", 0.0))
            if name:
                ok, exit_code = self._program.outcome(result)
                self._emit(
                    ToolFinished(
                        agent=self._label,
                        call_id=result.call_id,
                        name=name,
                        ok=ok,
                        exit_code=exit_code,
                        seconds=round(time.monotonic() - began, 3),
                        text=result.text[:EVENT_TEXT_CHARS],
                    )
                )

    # -- its answer or vote ----------------------------------------------------------------------------------

    async def _called(self, name: str, args: Mapping[str, Any]) -> tuple[str, bool]:
        async with self._one:
            if self.over.is_set():
                return "[the turn is over]", False
            witnessed = self._witness.claim(name, args)
            if witnessed is None:
                self._forgeries += 1
                if self._forgeries <= FORGERIES_SHOWN:
                    last = "; further ones are not shown" if self._forgeries == FORGERIES_SHOWN else ""
                    text = f"a call of `{name[:40]}` was reported from the container that its model never made; it does not count"
                    self._emit(Notice(agent=self._label, text=text + last, level="warning"))
                return "[this call was not made by the model; it does not count]", False
            taken = self._relay.take(Reply(calls=witnessed.calls))
            verdict = await handed_in(taken.verdict, self._hand_in)
            self.decision = self._relay.settle({}, verdict)
            if self.decision is not None:
                self.over.set()
            result = self._relay.transcript[-1].results[-1]
            return result.text, result.ok
