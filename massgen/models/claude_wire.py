"""Our messages as Anthropic's Messages API wants them, and its events as our reply. Plain tables in and out, no SDK.

The SDK has a helper that assembles a reply from events. It parses a tool's arguments leniently while they come, so a
call that was cut off by `max_tokens` looks complete: half a file would be written as if it were the file. Here the
text of the arguments is kept and parsed once, strictly, at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from massgen.messages import Citation, Image, Message, Piece, Reply, Stop, ToolCall, ToolResult, ToolSpec, Usage
from massgen.models.base import Options
from massgen.models.chat_wire import read_args, shown_args

_STOPS: Final[Mapping[str, Stop]] = {
    "end_turn": "end",
    "stop_sequence": "end",
    "tool_use": "tools",
    "refusal": "refusal",
    # All three: there is more to say than was said.
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
}


WEB_SEARCH: Final = "web_search_20250305"
CODE_EXECUTION: Final = "code_execution_20250825"
"""The versions that every model still served takes."""
_KEPT: Final[Mapping[str, Any]] = {"cache_control": {"type": "ephemeral"}}


def to_wire(messages: Iterable[Message]) -> tuple[str, list[dict[str, Any]]]:
    """A transcript as the `system` and the `messages` of a request. Neighbours of one role become one message."""
    system: list[str] = []
    wire: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            system.append(message.text)
            continue
        role = "assistant" if message.role == "assistant" else "user"
        # Nothing to say must not be said: the API refuses empty messages and blank text blocks.
        if not (blocks := _blocks(message)):
            continue
        if wire and wire[-1]["role"] == role:
            wire[-1]["content"].extend(blocks)
        else:
            wire.append({"role": role, "content": blocks})
    return "\n\n".join(system), wire


def tools_to_wire(tools: Iterable[ToolSpec], options: Options = Options()) -> list[dict[str, Any]]:  # noqa: B008 - frozen
    """Tool descriptions as the `tools` of a request, and the provider's own tools that the config asks for."""
    wire = [{"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)} for tool in tools]
    if "web_search" in options.hosted:
        most = options.search.get("max_results")
        wire.append({"type": WEB_SEARCH, "name": "web_search"} | ({"max_uses": most} if most is not None else {}))
    if "code_execution" in options.hosted:
        wire.append({"type": CODE_EXECUTION, "name": "code_execution"})
    return wire


def cached(body: dict[str, Any]) -> dict[str, Any]:
    """The request with what its provider is to keep for the next one marked: the API keeps nothing unasked.

    Tools, system text and conversation change at different times, so each has a mark. A conversation only grows: its last mark is
    where the next request begins to be new. The one before it is where this request does, which the API finds by itself only
    within twenty blocks, and one turn can hold more. These are all four that it takes. Of assistants' words nothing is marked.
    """
    marked = dict(body)
    if system := body.get("system"):
        marked["system"] = [{"type": "text", "text": system, **_KEPT}]
    if tools := body.get("tools"):
        marked["tools"] = [*tools[:-1], {**tools[-1], **_KEPT}]
    marked["messages"] = messages = list(body["messages"])
    for number in [n for n, message in enumerate(messages) if message["role"] == "user"][-2:]:
        *before, last = messages[number]["content"]
        messages[number] = {**messages[number], "content": [*before, {**last, **_KEPT}]}
    return marked


def _blocks(message: Message) -> list[dict[str, Any]]:
    if isinstance(message.native, tuple):
        # What the provider sent, thinking and signatures included: it checks that nobody changed them.
        return list(message.native)
    text = [{"type": "text", "text": message.text}] if message.text.strip() else []
    calls = [{"type": "tool_use", "id": call.id, "name": call.name, "input": shown_args(call)} for call in message.calls]
    results = [
        {"type": "tool_result", "tool_use_id": result.call_id, "content": _told(result), "is_error": not result.ok}
        for result in message.results
    ]
    return [*results, *map(_picture, message.images), *text, *calls]


def _told(result: ToolResult) -> str | list[dict[str, Any]]:
    text = result.text or "(nothing)"
    return [{"type": "text", "text": text}, *map(_picture, result.images)] if result.images else text


def _picture(image: Image) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": image.base64}}


@dataclass
class Blocks:
    """A reply under construction from stream events."""

    seen: bool = False
    """Whether anything at all has come."""
    stop_reason: str | None = None
    _blocks: dict[int, dict[str, Any]] = field(default_factory=dict)
    _args: dict[int, str] = field(default_factory=dict)
    _usage: dict[str, Any] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> list[Piece]:
        """Take in one event. Raises: KeyError, TypeError, … for what is no event."""
        self.seen = True
        match event["type"]:
            case "message_start":
                self._count(event["message"].get("usage"))
            case "content_block_start":
                block = dict(event["content_block"])
                self._blocks[event["index"]] = block
                if block.get("type") == "tool_use":
                    return [Piece(kind="call", text=f"{block['name']} ")]
                return [Piece(kind="text", text=str(block.get("text") or ""))]
            case "content_block_delta":
                return self._grow(event["index"], event["delta"])
            case "message_delta":
                self.stop_reason = event["delta"].get("stop_reason") or self.stop_reason
                self._count(event.get("usage"))
        return []

    def add_whole(self, answer: Mapping[str, Any]) -> list[Piece]:
        """Take in a reply that was not streamed."""
        self.seen = True
        self._blocks = {number: dict(block) for number, block in enumerate(answer["content"])}
        self._args = {
            number: json.dumps(block["input"])
            for number, block in self._blocks.items()
            if block.get("type") in ("tool_use", "server_tool_use")
        }
        self.stop_reason = answer["stop_reason"]
        self._count(answer.get("usage"))
        return [Piece(kind="reasoning", text=self._reasoning()), Piece(kind="text", text=self._text())]

    def complete(self) -> bool:
        """Whether a stop reason came."""
        return self.stop_reason is not None

    def reply(self) -> Reply:
        """The reply, when everything has come. Its `native` is what to send back."""
        calls: list[ToolCall] = []
        native: list[dict[str, Any]] = []
        for number, block in sorted(self._blocks.items()):
            if block.get("type") == "tool_use":
                args, bad_args = read_args(self._args.get(number, ""))
                calls.append(ToolCall(id=block["id"], name=block["name"], args=args, bad_args=bad_args))
                native.append({**block, "input": shown_args(calls[-1])})
            elif block.get("type") == "server_tool_use":
                native.append({**block, "input": read_args(self._args.get(number, ""))[0]})
            elif block.get("type") != "text" or block["text"].strip():
                native.append(block)
        stop = _STOPS.get(self.stop_reason or "", "end")
        return Reply(
            text=self._text(),
            calls=tuple(calls),
            usage=self._total(),
            stop=stop,
            reasoning=self._reasoning(),
            citations=self._citations(),
            cache_written_tokens=self._usage.get("cache_creation_input_tokens", 0),
            native=tuple(native),
        )

    def _grow(self, number: int, delta: Mapping[str, Any]) -> list[Piece]:
        block = self._blocks[number]
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
                return [Piece(kind="text", text=str(delta["text"]))]
            case "input_json_delta":
                self._args[number] = self._args.get(number, "") + delta["partial_json"]
                return [Piece(kind="call", text=str(delta["partial_json"]))] if block.get("type") == "tool_use" else []
            case "thinking_delta":
                block["thinking"] += delta["thinking"]
                return [Piece(kind="reasoning", text=str(delta["thinking"]))]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        return []

    def _reasoning(self) -> str:
        thoughts = [block for _, block in sorted(self._blocks.items()) if block.get("type") == "thinking"]
        return "\n".join(str(block.get("thinking") or "") for block in thoughts)

    def _citations(self) -> tuple[Citation, ...]:
        found: dict[str, Citation] = {}
        for _, block in sorted(self._blocks.items()):
            for note in block.get("citations") or ():
                if url := note.get("url"):
                    found.setdefault(url, Citation(url=url, title=note.get("title") or ""))
        return tuple(found.values())

    def _text(self) -> str:
        return "".join(block["text"] for _, block in sorted(self._blocks.items()) if block.get("type") == "text")

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        # Figures are totals so far: they replace, and one that is missing stays as it was.
        self._usage |= {key: value for key, value in (usage or {}).items() if value is not None}

    def _total(self) -> Usage:
        # The provider's input_tokens are only those that no cache was involved in; ours are all.
        read, written = self._usage.get("cache_read_input_tokens", 0), self._usage.get("cache_creation_input_tokens", 0)
        return Usage(
            input_tokens=self._usage.get("input_tokens", 0) + read + written,
            cached_tokens=read,
            output_tokens=self._usage.get("output_tokens", 0),
            reasoning_tokens=(self._usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0,
        )
