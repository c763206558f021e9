"""A model call with patience: what may pass is tried again, and every call, wait and failure is an event.

The SDKs would retry too. They give up when a provider names a wait of more than two minutes, tell nobody that they wait, and
do not know that four other agents wait for the same key. So theirs are off, and the waits are here: as long as the provider
says, never past the deadline of whoever asked, and shown.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import anyio

from massgen.agent.circuit import Circuit
from massgen.agent.view import Emit
from massgen.errors import ModelDeclined, ModelError, ModelUnavailable, ModelUnreachable
from massgen.events.types import Cited, ModelAsked, ModelCalled, ModelFailed, ModelHeld, Streamed, TextSaid
from massgen.messages import Message, Piece, Reply, Request, Usage
from massgen.models.base import Model, ScoringModel

TRIES = 5
"""Of one call. A wait that the provider itself names is not counted: it ends with the deadline."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
"""Of the waits that we choose."""
LONGEST_NAMED_S = 600.0
"""A provider that names more (a day's quota is used up) is not waited for: the others would wait for this agent."""
UNREACHED_S = 3.0
"""Tries where nobody ever took a connection: a server that is started again meanwhile is met, a wrong address is said soon."""
SPREAD_S = 1.0
"""Agents that were all told the same moment do not come back in the same instant."""
PIECE_S = 0.1
PIECE_CHARS = 512
"""A part of a reply is shown when it is so old or so long."""


class Caller:
    """Calls one model for one agent.

    `deadline`: of anyio's clock; no wait goes past it, nor past the deadline of an enclosing scope.
    `circuit`: shared with all who ask the same provider with the same key; None: one of its own.
    """

    def __init__(
        self,
        *,
        label: str,
        model: Model,
        emit: Emit,
        deadline: float = math.inf,
        circuit: Circuit | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label = label
        self.model = model
        self._emit = emit
        self._deadline = deadline
        self._circuit = circuit or Circuit()
        self._sleep = sleep
        self._chance = chance
        self._clock = clock

    async def complete(self, request: Request) -> Reply:
        """One reply. Raises: ModelError: the last failure, or ModelDeclined when the model will not answer this."""
        began, asked, counted = self._clock(), 0, 0
        while True:
            await self._admitted()
            try:
                return await self._once(request)
            except ModelError as error:
                asked += 1
                counted += error.retry_after_s is None
                wait_s = self._wait_s(error, asked)
                known = self._known(error)
                over = isinstance(known, ModelUnreachable) and self._clock() - began + wait_s > UNREACHED_S
                await self._again(known, wait_s, last=over or counted >= TRIES)

    async def score(self, messages: tuple[Message, ...]) -> float | None:
        """How much the model leans to yes; None: that cannot be read of this one. Raises: ModelError."""
        if not isinstance(self.model, ScoringModel):
            return None
        began, used = time.monotonic(), [Usage()]
        self._emit(ModelAsked(agent=self.label, model=self.model.name))
        found = await self.model.score(messages, on_usage=used.append)
        self._tell(Reply(usage=sum(used, Usage()), cost_usd=0.0), time.monotonic() - began)
        return found

    async def _admitted(self) -> None:
        """Wait while the provider is to be left alone. Raises: ModelUnavailable: for too long."""
        for _ in range(TRIES):
            hold_s = self._circuit.hold_s()
            if not hold_s:
                return
            why = f"{self.model.name} is not asked for {hold_s:.0f} s: {self._circuit.why}"
            if hold_s > self._left_s() or self._circuit.outlasts:
                raise ModelUnavailable(f"{why}; that is longer than this agent may wait", unbilled=True)
            self._emit(ModelHeld(agent=self.label, why=why, wait_s=round(hold_s, 3)))
            await self._circuit.changed(hold_s + self._spread_s(hold_s))
        raise ModelUnavailable(f"{self.model.name} is given up: {self._circuit.why}", unbilled=True)

    async def _once(self, request: Request) -> Reply:
        began = self._clock()
        self._emit(ModelAsked(agent=self.label, model=self.model.name))
        shown = _Shown(self.label, self._emit, first=self._circuit.answered)
        try:
            reply = await self.model.complete(request, on_piece=shown)
        except ModelError as error:
            self._circuit.failed(error)
            raise
        except BaseException:
            self._circuit.left()
            raise
        finally:
            shown.flush()
        self._circuit.answered()
        self._tell(reply, self._clock() - began)
        if reply.stop == "refusal" and not reply.calls:
            said = " ".join(reply.text.split())[:200]
            raise ModelDeclined(f"{self.model.name} will not answer this" + (f": {said}" if said else ""))
        return reply

    def _tell(self, reply: Reply, seconds: float) -> None:
        called = ModelCalled(
            agent=self.label,
            model=self.model.name,
            usage=reply.usage,
            seconds=round(seconds, 3),
            stop=reply.stop,
            cost_usd=reply.cost_usd,
        )
        self._emit(called)
        if reply.text.strip():
            self._emit(TextSaid(agent=self.label, text=reply.text))
        if reply.citations:
            sources = tuple({"url": source.url, "title": source.title} for source in reply.citations)
            self._emit(Cited(agent=self.label, sources=sources))

    def _known(self, error: ModelError) -> ModelError:
        """A server that was there and is gone may come back: that is no wrong address."""
        if not isinstance(error, ModelUnreachable) or not self._circuit.reached:
            return error
        gone = ModelUnavailable(str(error), unbilled=True)
        gone.__cause__ = error.__cause__
        return gone

    async def _again(self, error: ModelError, wait_s: float, *, last: bool) -> None:
        """Wait before the next try. Raises: the error, when there is none."""
        again = error.retryable and not last
        left_s = self._left_s()
        if again and wait_s > left_s:
            again = False
            error = _too_late(error, wait_s, left_s)
        self._emit(ModelFailed(agent=self.label, error=str(error), retry_s=round(wait_s, 3) if again else None))
        if not again:
            raise error from error.__cause__
        await self._sleep(wait_s)

    def _wait_s(self, error: ModelError, asked: int) -> float:
        own_s = min(FIRST_WAIT_S * 2.0 ** min(asked - 1, 20), LONGEST_WAIT_S)
        if error.retry_after_s is None:
            return own_s * (0.5 + self._chance() / 2)
        # Never earlier than asked for, and not for ever as often as a provider allows that names next to nothing each time.
        named_s = max(error.retry_after_s, own_s)
        return named_s + self._spread_s(named_s)

    def _spread_s(self, wait_s: float) -> float:
        return self._chance() * min(SPREAD_S, wait_s / 10)

    def _left_s(self) -> float:
        return min(min(self._deadline, anyio.current_effective_deadline()) - anyio.current_time(), LONGEST_NAMED_S)


def _too_late(error: ModelError, wait_s: float, left_s: float) -> ModelError:
    text = f"{error} (it may be asked again in {wait_s:.0f} s, and this agent waits {max(left_s, 0):.0f} s at most)"
    late = type(error)(text, retry_after_s=error.retry_after_s, unbilled=error.unbilled)
    late.__cause__ = error.__cause__
    return late


class _Shown:
    """Takes the pieces of one reply and shows them a moment at a time: a display has no use for fifty events a second."""

    def __init__(self, label: str, emit: Emit, *, first: Callable[[], None]) -> None:
        self._label = label
        self._emit = emit
        self._first: Callable[[], None] | None = first
        self._kind: Literal["text", "reasoning", "call"] = "text"
        self._parts: list[str] = []
        self._chars = 0
        self._since = -math.inf  # the first words of a reply are shown at once

    def __call__(self, piece: Piece) -> None:
        if self._first is not None:
            self._first()
            self._first = None
        now = time.monotonic()
        if piece.kind != self._kind:
            self.flush()
            self._kind = piece.kind
        self._parts.append(piece.text)
        self._chars += len(piece.text)
        if self._chars >= PIECE_CHARS or now - self._since >= PIECE_S:
            self.flush()
            self._since = now

    def flush(self) -> None:
        """Show what is waiting."""
        if self._parts:
            self._emit(Streamed(agent=self._label, kind=self._kind, text="".join(self._parts)))
            self._parts.clear()
            self._chars = 0
