"""One act of the body, seen by people: an event when it begins, one when it ends."""

from __future__ import annotations

import time

from massgen.agent.endpoint import Act, Hands
from massgen.agent.tools import summary
from massgen.agent.view import Emit
from massgen.events.types import ToolFinished, ToolStarted
from massgen.messages import ToolResult

EVENT_TEXT_CHARS = 4096


async def perform(hands: Hands, act: Act, *, label: str, emit: Emit, refused: ToolResult | None = None) -> ToolResult:
    """Do it and tell. `refused`: the result when it must not reach the body. Raises: BodyLost."""
    emit(ToolStarted(agent=label, call_id=act.id, name=act.name, summary=summary(act.name, act.args)))
    started = time.monotonic()
    result = refused or (await hands.act([act]))[0]
    emit(
        ToolFinished(
            agent=label,
            call_id=act.id,
            name=act.name,
            ok=result.ok,
            exit_code=result.exit_code,
            seconds=round(time.monotonic() - started, 3),
            text=result.text[:EVENT_TEXT_CHARS],
        )
    )
    return result
