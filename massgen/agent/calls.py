"""A model call with patience: retryable failures are tried again, every call and failure is an event."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from massgen.agent.view import Emit
from massgen.errors import ModelError
from massgen.events.types import ModelCalled, ModelFailed, TextSaid
from massgen.messages import Reply, Request
from massgen.models.base import Model

TRIES = 3
FIRST_WAIT_S = 0.5


class Caller:
    """Calls one model for one agent."""

    def __init__(self, *, label: str, model: Model, emit: Emit, sleep: Callable[[float], Awaitable[None]] = anyio.sleep) -> None:
        self.label = label
        self.model = model
        self._emit = emit
        self._sleep = sleep

    async def complete(self, request: Request) -> Reply:
        """One reply, after at most three tries, waiting 0.5 s and 1 s in between. Raises: ModelError, the last one."""
        wait_s = FIRST_WAIT_S
        for left in reversed(range(TRIES)):
            started = time.monotonic()
            try:
                reply = await self.model.complete(request)
            except ModelError as error:
                again = error.retryable and left > 0
                self._emit(ModelFailed(agent=self.label, error=str(error), retry_s=wait_s if again else None))
                if not again:
                    raise
                await self._sleep(wait_s)
                wait_s *= 2
            else:
                seconds = time.monotonic() - started
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
                return reply
        raise AssertionError
