"""What the product asks of a model: one streamed completion; a small local one can also weigh two words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from massgen.messages import Message, Reply, Request

OnText = Callable[[str], None]
"""Called with each piece of streamed text, in order; must not block."""


class Model(Protocol):
    """One configured model. Safe for one call at a time per agent; several agents may share one."""

    name: str
    """As shown to the user: the model name of the config."""
    key_source: str
    """Where the key came from (`OPENAI_API_KEY`, `config`), empty when none is needed. Never the key."""

    async def complete(self, request: Request, *, on_text: OnText | None = None) -> Reply:
        """One completion, streamed where the provider can.

        Cancellation closes the connection. Raises: ModelError subclasses only; foreign exceptions are
        translated `from` the original, and no message ever contains a key.
        """
        ...

    async def aclose(self) -> None:
        """Release connections. Idempotent."""
        ...


@runtime_checkable
class ScoringModel(Model, Protocol):
    """A model whose next-token probabilities can be read."""

    async def score(self, messages: tuple[Message, ...], *, yes: str = "yes", no: str = "no") -> float:
        """logprob(yes) - logprob(no) of the first word of the answer. Raises: ModelError."""
        ...
