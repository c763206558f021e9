"""A look of the tool loop over the real body, with a model that says what it was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from massgen.agent.loop import LoopSession
from massgen.agent.view import ShownAnswer, View
from massgen.events.types import Event
from massgen.messages import Message, Reply, Request, ToolCall
from tests.support.local_box import LocalBox


class Said:
    """A model that says what it was given, and keeps what it was asked."""

    name = "said"
    key_source = ""

    def __init__(self, *replies: Reply | Exception | Callable[[Request], Reply]) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []

    async def complete(self, request: Request, *, on_piece: object = None) -> Reply:
        self.requests.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply(request) if callable(reply) else reply

    async def aclose(self) -> None:
        return


def calls(*items: tuple[str, dict[str, Any]], text: str = "") -> Reply:
    """A reply with these calls."""
    made = tuple(ToolCall(id=f"c{number}-{name}", name=name, args=args) for number, (name, args) in enumerate(items))
    return Reply(text=text, calls=made, stop="tools")


ANSWER = ("new_answer", {"content": "The answer."})
VOTE = ("vote", {"agent_id": "agent1", "reason": "right"})
ONE = ShownAnswer(id="agent1.1", label="agent1", own=False, text="First.", files=("/p/a.py",))
OWN = ShownAnswer(id="agent2.1", label="agent2", own=True, text="Mine.")


def view(*answers: ShownAnswer, **more: Any) -> View:
    return View(phase=more.pop("phase", "coordination"), task="Fix it.", answers=answers, **more)


class Look:
    """A session over the real body, and everything that it said."""

    def __init__(self, folder: Path, *replies: Any, transcript: tuple[Message, ...] = (), labels: tuple[str, ...] = ()) -> None:
        (folder / "home").mkdir(exist_ok=True)
        self.model = Said(*replies)
        self.box = LocalBox(folder / "cache", folder / "home")
        self.events: list[Event] = []
        self.waits: list[float] = []
        self.session = LoopSession(
            label="agent2",
            model=self.model,
            box=self.box,
            emit=self.events.append,
            cwd=str(folder / "home"),
            transcript=transcript,
            labels=labels,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def results(self) -> list[str]:
        return [result.text for message in self.session.transcript for result in message.results]
