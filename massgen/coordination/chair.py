"""One agent's place in coordination: what the configuration gives it, and what changes while it takes part."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import anyio

from massgen.agent.view import Session, ShownAnswer, ShownVote
from massgen.messages import Message
from sandbox import Mount, Sandbox

REOPENINGS = 2
"""So many times an agent whose container was lost gets another one."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A configured agent, ready to be given a container."""

    label: str
    """Anonymous and stable: `agent1`, …"""
    open_session: Callable[[Sandbox, tuple[Message, ...]], AbstractAsyncContextManager[Session]]
    """Its session in a container, going on from a transcript."""
    own: tuple[Mount, ...] = ()
    """Read paths that it alone sees."""
    needs_verdicts: bool = False
    """It judges by test results: it looks at answers when each has been verified, not before."""


class Chair:
    """What changes about one agent while it takes part."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.session: Session | None = None
        """The latest; None until its first container was up."""
        self.wake = anyio.Event()
        """It is to look, or to leave."""
        self.leaving = ""
        """Why it is to be excluded; empty: it is not."""
        self.losses = 0
        self.debate: tuple[str, tuple[ShownVote, ...]] = ("", ())
        """The remark and the votes that open its next look."""
        self._look: anyio.CancelScope | None = None

    def begin_look(self, timeout_s: float | None) -> anyio.CancelScope:
        """The scope of one look; what woke it until now is answered by it."""
        self.wake = anyio.Event()
        self._look = anyio.move_on_after(timeout_s)
        self._interrupted = False
        return self._look

    def end_look(self) -> bool:
        """Whether it was interrupted: then nothing has come of it, and that is nobody's failure."""
        self._look = None
        return self._interrupted

    def interrupt(self) -> None:
        """Drop the look it is in, if it is in one."""
        if self._look:
            self._interrupted = True
            self._look.cancel()

    def leave(self, why: str) -> None:
        """It is to be excluded."""
        self.leaving = why or "failed"
        self.wake.set()

    def notify(self, answers: tuple[ShownAnswer, ...]) -> None:
        """News for a look that is under way."""
        if self.session:
            self.session.notify(answers)

    @property
    def transcript(self) -> tuple[Message, ...]:
        """All that its model has seen and said."""
        return self.session.transcript if self.session else ()
