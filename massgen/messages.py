"""The one language for what agents and models say to each other; every provider adapter translates to it.

All values are frozen. A transcript is a tuple of `Message` that only grows, kept on the host.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Role = Literal["system", "user", "assistant", "tool"]
Stop = Literal["end", "tools", "length", "refusal"]


@dataclass(frozen=True, kw_only=True)
class ToolSpec:
    """A tool as a model is told of it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments: always an object."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A model's wish to run a tool."""

    id: str
    name: str
    args: Mapping[str, Any]
    bad_args: str = ""
    """The raw text when the model's arguments are not a JSON object; `args` is empty then."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture for a model that takes them."""

    media_type: str
    """One of `MEDIA`."""
    data: bytes = field(repr=False)

    @property
    def base64(self) -> str:
        """As every protocol carries it."""
        return base64.b64encode(self.data).decode("ascii")


MEDIA: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What every provider that takes pictures takes."""


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What came of one call; text is for the model."""

    call_id: str
    text: str
    ok: bool = True
    exit_code: int | None = None
    truncated_bytes: int = 0
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one or more calls, in the provider's own figures. `input_tokens` includes the cached ones."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Citation:
    """Where a provider's own web search found something."""

    url: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a reply as it streams in."""

    kind: Literal["text", "reasoning", "call"]
    text: str
    """For `call`: the tool's name, or a piece of its arguments."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a transcript: text and images (user), calls (assistant) or results (tool), which may have images, too."""

    role: Role
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    images: tuple[Image, ...] = ()
    native: Any = None
    """The provider's own content of this turn (thinking blocks, signatures), handed back unmodified to the same
    adapter that made it; nobody else looks inside."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One model call, complete: adapters add the key and the URL, nothing else."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    situation: Mapping[str, Any] = field(default_factory=dict)
    """`phase` (coordination | final), `answers` (int), `own` and `latest` (labels or None): what a scripted model selects by;
    real adapters ignore it."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A model's answer to one request."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    stop: Stop = "end"
    reasoning: str = ""
    """What the provider shows of its thinking; for people, never part of the transcript's text."""
    citations: tuple[Citation, ...] = ()
    cost_usd: float | None = None
    """What the call cost; None: nobody knows."""
    cache_written_tokens: int = 0
    """Of the input, what the provider has put into its cache for the next call: some take more for it."""
    native: Any = None

    def as_message(self) -> Message:
        """The assistant turn to append to the transcript."""
        return Message(role="assistant", text=self.text, calls=self.calls, native=self.native)
