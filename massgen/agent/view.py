"""What an agent is shown, and what it may decide: the values that cross between coordination and a session.

They sit below both strategies, so that `session.py` can import the strategies and re-export these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from massgen.events.types import Event, Verified
from massgen.messages import Message
from sandbox import Connection, Outcome

__all__ = [
    "Answered",
    "Box",
    "Decision",
    "Emit",
    "Failed",
    "HandIn",
    "Line",
    "Place",
    "Presented",
    "Session",
    "ShownAnswer",
    "ShownVote",
    "View",
    "Voted",
]

Emit = Callable[[Event], None]
"""Where a session reports what happened; must not block."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A path that the agent's container shows, as its prompt names it."""

    path: str
    """Absolute path inside the container."""
    mode: Literal["read", "later", "draft", "write"]
    """`later`: read-only until the final turn. `draft`: a private writable copy. `write`: the real thing (`direct` mode, final
    turn only)."""


@dataclass(frozen=True, kw_only=True)
class ShownAnswer:
    """One current answer, the latest of its label."""

    id: str
    """`agent2.1`; its files are in `/peers/agent2.1/` (not one's own unless the orchestrator puts them there)."""
    label: str
    own: bool
    text: str
    files: tuple[str, ...] = ()
    """Paths that it changes, as people should read them."""
    verify: Verified | None = None
    patch: str = ""
    """Unified diff of its changes, cut to whatever the orchestrator finds decent; the small-model vote reads it."""


@dataclass(frozen=True, kw_only=True)
class ShownVote:
    """One vote that counted, as others are told of it."""

    voter: str
    """Label."""
    label: str
    """The agent it was for."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class View:
    """One look: everything that the agent is shown of the run."""

    phase: Literal["coordination", "final"]
    task: str
    answers: tuple[ShownAnswer, ...] = ()
    """The latest answer of each label, registration order, own last."""
    own: str | None = None
    """Id of the agent's own latest answer."""
    latest: str | None = None
    """Label of the newest answer (a scripted `$latest`). None: the last of the others' in `answers`, else own."""
    may_answer: bool = True
    """False: only a vote is accepted (answer limits)."""
    votes: tuple[ShownVote, ...] = ()
    """All votes, in registration order: in the final turn, and in the look that opens a round of debate."""
    paths: tuple[Place, ...] = ()
    """Context paths. `/workspace` and `/peers` need not be listed."""
    base: Verified | None = None
    """The verify command on the project as it was, once that is known."""
    remark: str = ""
    """One line from the orchestrator for this look (a debate round: why the agents look again). Trusted text."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The look ended with a new answer; the files are to be snapshotted by whoever asked."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Voted:
    """The look ended with a vote. `seen`: ids of the answers last shown to the model."""

    label: str
    reason: str
    seen: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Presented:
    """The final turn ended: the text for the user."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The look ended without any. `fatal`: no retry can help (a refused key)."""

    why: str
    fatal: bool = False


Decision = Answered | Voted | Presented | Failed

HandIn = Callable[[str], Awaitable[str]]
"""Takes an answer's text with the files as they are at that moment; returns what is wrong with it, or nothing when it is
taken. The model may mend what is wrong; a look whose answer is taken ends with `Answered`."""


class Session(Protocol):
    """One agent in its container, for all of coordination (and another one, same transcript, for the final turn)."""

    @property
    def transcript(self) -> tuple[Message, ...]:
        """What the model has seen and said; give it to `open_session` to go on elsewhere."""
        ...

    @property
    def behind(self) -> bool:
        """The model has not yet been told what `notify` brought."""
        ...

    async def look(self, view: View, *, hand_in: HandIn | None = None) -> Decision:
        """Show the view, let the agent work, return what it decides. One at a time. `hand_in` None: any answer is taken.

        Cancellation: the model call is dropped, the running command and all background jobs are killed (bounded
        by a few seconds), and the transcript stays usable for the next look. Raises nothing for what a model, a
        tool or the container does: that is `Failed`.
        """
        ...

    def notify(self, answers: tuple[ShownAnswer, ...]) -> None:
        """Peers answered during a look: `answers` is the whole current set.

        The model is told with its next tool result, and only from then on does `Voted.seen` contain it. Outside a
        look: no effect (the next view has it).
        """
        ...

    async def interrupt(self, why: str) -> None:
        """Stop the command that runs now, if any; the model gets its partial output and the reason, the look goes on."""
        ...


class Line(Protocol):
    """A long-lived program in the sandbox (`sandbox.Process`)."""

    async def send(self, data: bytes) -> None:
        """Write to its stdin."""
        ...

    async def end_stdin(self) -> None:
        """Nothing more will be written."""
        ...

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs."""
        ...

    async def receive(self) -> tuple[int, bytes]:
        """Next piece of output: (1 stdout | 2 stderr, bytes). Raises: anyio.EndOfStream."""
        ...

    async def wait(self) -> object:
        """Until it has ended."""
        ...

    async def kill(self) -> None:
        """End it and its session."""
        ...


class Box(Protocol):
    """The part of `sandbox.Sandbox` that an agent needs."""

    def spawn(
        self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Line]:
        """Start a program; leaving the block ends it."""
        ...

    def serve(self, handler: Callable[[Connection], Awaitable[None]]) -> AbstractAsyncContextManager[int]:
        """A loopback port inside that `handler` answers on the host; its number."""
        ...
