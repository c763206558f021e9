"""The one way in which every adapter turns a provider's answer into a reply.

An SDK's module gives `Heard` values: events of a stream, or a whole answer where there was no stream. A wire module
assembles them. What neither can know is judged here: a stream that ends early, an answer that is none, a reader of
pieces that fails (his mistake, not the provider's).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final, NamedTuple, Protocol

from massgen.errors import ModelError
from massgen.messages import Piece, Reply
from massgen.models.base import OnPiece
from massgen.models.translate import Endpoint

MAX_CHARS: Final = 32 * 1024 * 1024
"""Of one reply. The longest that models give is a tenth of a percent of it."""


MOST_CALLS: Final = 200
"""In one reply: each is worked, shown and kept in the log. Models that call at once do so by the dozen."""


class Heard(NamedTuple):
    """One thing a provider said."""

    event: Mapping[str, Any]
    whole: bool = False
    """True: all of the answer, not streamed."""


class Refusal(Exception):
    """The provider said no. `meaning` is the error for whoever asked; status and words may teach an adapter to ask otherwise."""

    def __init__(self, meaning: ModelError, *, status: int = 0, said: str = "") -> None:
        super().__init__(str(meaning))
        self.meaning = meaning
        self.status = status
        """HTTP status; 0 when it was said inside a stream."""
        self.said = said


class Assembly(Protocol):
    """A reply under construction. Its methods raise KeyError, TypeError, ValueError, … for what is outside the protocol."""

    seen: bool
    """Whether anything at all has come."""

    def add(self, event: Mapping[str, Any]) -> Iterable[Piece]:
        """Take in one event; what it adds to the reply."""
        ...

    def add_whole(self, answer: Mapping[str, Any]) -> Iterable[Piece]:
        """Take in an answer that was not streamed."""
        ...

    def complete(self) -> bool:
        """Whether the provider said that it had finished."""
        ...

    def reply(self) -> Reply:
        """The reply, when everything has come."""
        ...


async def assemble(
    heard: AsyncGenerator[Heard], assembly: Assembly, endpoint: Endpoint, on_piece: OnPiece | None = None
) -> Reply:
    """The reply. Raises: ModelError, Refusal (from `heard`)."""
    chars = 0
    tail = ""
    async with aclosing(heard) as all_heard:
        async for event, whole in all_heard:
            try:
                pieces = tuple(assembly.add_whole(event) if whole else assembly.add(event))
            except (ValueError, TypeError, AttributeError, LookupError) as error:
                raise endpoint.garbage(f"{error!r}") from endpoint.cause(error)
            for piece in pieces:
                chars += len(piece.text)
                tail = _without_key(endpoint, tail, piece.text)
                if on_piece is not None and piece.text:
                    on_piece(piece)
            if chars > MAX_CHARS:
                raise endpoint.garbage(f"{chars} characters and no end")
    if not assembly.complete():
        raise endpoint.cut_off() if assembly.seen else endpoint.garbage("nothing in it")
    reply = assembly.reply()
    if len(reply.calls) > MOST_CALLS:
        raise endpoint.garbage(f"{len(reply.calls)} calls in one reply")
    if len({call.id for call in reply.calls}) < len(reply.calls):
        raise endpoint.garbage("two calls with one id")
    return reply


def _without_key(endpoint: Endpoint, tail: str, text: str) -> str:
    """The end of what was said so far, as long as a key. Raises: BadReply: the key is in it.

    Only a server that repeats the headers of its requests says it; in a reply it would go into the log and into containers.
    """
    if not endpoint.key:
        return ""
    said = tail + text
    if endpoint.key in said:
        raise endpoint.garbage("it repeats the key")
    return said[-len(endpoint.key) :]
