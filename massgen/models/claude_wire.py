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

from massgen.messages import Message, Reply, Stop, ToolCall, ToolSpec, Usage
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


def tools_to_wire(tools: Iterable[ToolSpec]) -> list[dict[str, Any]]:
    """Tool descriptions as the `tools` of a request."""
    return [{"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)} for tool in tools]


def _blocks(message: Message) -> list[dict[str, Any]]:
    if isinstance(message.native, tuple):
        # What the provider sent, thinking and signatures included: it checks that nobody changed them.
        return list(message.native)
    text = [{"type": "text", "text": message.text}] if message.text.strip() else []
    calls = [{"type": "tool_use", "id": call.id, "name": call.name, "input": shown_args(call)} for call in message.calls]
    results = [
        {"type": "tool_result", "tool_use_id": result.call_id, "content": result.text or "(nothing)", "is_error": not result.ok}
        for result in message.results
    ]
    return [*results, *text, *calls]


@dataclass
class Blocks:
    """A reply under construction from stream events."""

    seen: bool = False
    """Whether anything at all has come."""
    stop_reason: str | None = None
    _blocks: dict[int, dict[str, Any]] = field(default_factory=dict)
    _args: dict[int, str] = field(default_factory=dict)
    _usage: dict[str, Any] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> str:
        """Take in one event; gives its piece of text. Raises: KeyError, TypeError, … for what is no event."""
        self.seen = True
        match event["type"]:
            case "message_start":
                self._count(event["message"].get("usage"))
            case "content_block_start":
                self._blocks[event["index"]] = dict(event["content_block"])
                return str(event["content_block"].get("text") or "")
            case "content_block_delta":
                return self._grow(event["index"], event["delta"])
            case "message_delta":
                self.stop_reason = event["delta"].get("stop_reason") or self.stop_reason
                self._count(event.get("usage"))
        return ""

    def add_whole(self, message: Mapping[str, Any]) -> str:
        """Take in a reply that was not streamed."""
        self.seen = True
        self._blocks = {number: dict(block) for number, block in enumerate(message["content"])}
        self._args = {
            number: json.dumps(block["input"]) for number, block in self._blocks.items() if block.get("type") == "tool_use"
        }
        self.stop_reason = message["stop_reason"]
        self._count(message.get("usage"))
        return self._text()

    def reply(self) -> Reply:
        """The reply, when everything has come. Its `native` is what to send back."""
        calls: list[ToolCall] = []
        native: list[dict[str, Any]] = []
        for number, block in sorted(self._blocks.items()):
            if block.get("type") == "tool_use":
                args, bad_args = read_args(self._args.get(number, ""))
                calls.append(ToolCall(id=block["id"], name=block["name"], args=args, bad_args=bad_args))
                native.append({**block, "input": shown_args(calls[-1])})
            elif block.get("type") != "text" or block["text"].strip():
                native.append(block)
        stop = _STOPS.get(self.stop_reason or "", "end")
        return Reply(text=self._text(), calls=tuple(calls), usage=self._total(), stop=stop, native=tuple(native))

    def _grow(self, number: int, delta: Mapping[str, Any]) -> str:
        block = self._blocks[number]
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
                return str(delta["text"])
            case "input_json_delta":
                self._args[number] = self._args.get(number, "") + delta["partial_json"]
            case "thinking_delta":
                block["thinking"] += delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        return ""

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
