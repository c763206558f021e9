"""What the product asks of a model: one streamed completion; a small local one can also weigh two words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from massgen.messages import Message, Piece, Reply, Request, Usage

OnPiece = Callable[[Piece], None]
"""Called with each piece of the reply as it comes, in order; must not block."""

OnUsage = Callable[[Usage], None]
"""Called with the tokens of a call when it is over."""

Hosted = Literal["web_search", "code_execution"]
"""A tool that the provider itself runs. What it does happens at the provider, so only the user's config can ask for it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is asked, from its agent's config. None: the provider's own default."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    verbosity: str | None = None
    """low, medium or high: how long an answer is to be."""
    effort: str | None = None
    """How much a reasoning model is to think: minimal, low, medium, high, …"""
    summary: str | None = None
    """Whether to be told of the reasoning: auto, concise or detailed."""
    thinking_tokens: int | None = None
    """What may be spent on thinking; 0: none of it."""
    hosted: frozenset[Hosted] = frozenset()
    search: Mapping[str, Any] = field(default_factory=dict)
    """Of the provider's web search: `max_results`, `mode`, `citations`."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the request's JSON as it is."""


class Model(Protocol):
    """One configured model. Safe for one call at a time per agent; several agents may share one."""

    name: str
    """As shown to the user: the model name of the config."""
    key_source: str
    """Where the key came from (`OPENAI_API_KEY`, `config`), empty when none is needed. Never the key."""

    async def complete(self, request: Request, *, on_piece: OnPiece | None = None) -> Reply:
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
    """A model whose next-token probabilities can be read. Such models run on the user's machine and cost nothing."""

    async def score(
        self, messages: tuple[Message, ...], *, yes: str = "yes", no: str = "no", on_usage: OnUsage | None = None
    ) -> float:
        """logprob(yes) - logprob(no) of the first word of the answer. `on_usage` hears what it took. Raises: ModelError."""
        ...
