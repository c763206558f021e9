"""Our messages as the Responses API wants them, and its events as our reply. Plain tables in and out, no SDK.

An assistant turn is a list of items (reasoning, message, function_call, what hosted tools did). They go back as they came,
because the provider checks that reasoning precedes the call that it led to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from massgen.messages import Citation, Image, Message, Piece, Reply, Stop, ToolCall, ToolSpec, Usage
from massgen.models.base import Hosted
from massgen.models.chat_wire import data_url, read_args, shown_args
from massgen.models.streamed import Refusal
from massgen.models.translate import Endpoint

_HOSTED: Mapping[Hosted, dict[str, Any]] = {
    "web_search": {"type": "web_search"},
    "code_execution": {"type": "code_interpreter", "container": {"type": "auto"}},
}


def to_wire(messages: Iterable[Message]) -> tuple[str, list[dict[str, Any]]]:
    """A transcript as the `instructions` and the `input` of a request."""
    instructions: list[str] = []
    items: list[dict[str, Any]] = []
    for message in messages:
        match message.role:
            case "system":
                instructions.append(message.text)
            case "user":
                items.append({"type": "message", "role": "user", "content": _content(message.text, message.images)})
            case "assistant":
                items += _assistant(message)
            case "tool":
                items += [
                    {"type": "function_call_output", "call_id": result.call_id, "output": _content(result.text, result.images)}
                    for result in message.results
                ]
    return "\n\n".join(instructions), items


def tools_to_wire(tools: Iterable[ToolSpec], hosted: Iterable[Hosted] = ()) -> list[dict[str, Any]]:
    """Tool descriptions as the `tools` of a request."""
    own = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
            "strict": False,
        }
        for tool in tools
    ]
    return own + [_HOSTED[name] for name in sorted(hosted)]


def _content(text: str, images: tuple[Image, ...]) -> str | list[dict[str, Any]]:
    if not images:
        return text
    shown = [{"type": "input_image", "image_url": data_url(image), "detail": "auto"} for image in images]
    return [{"type": "input_text", "text": text}, *shown]


def _assistant(message: Message) -> list[dict[str, Any]]:
    if isinstance(message.native, tuple):
        return list(message.native)
    said = [{"type": "message", "role": "assistant", "content": message.text}] if message.text else []
    calls = [
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": json.dumps(shown_args(call))}
        for call in message.calls
    ]
    return [*said, *calls]


def _returned(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as it goes back. What a hosted tool did has required fields, null or not; else some servers refuse `status`."""
    if item.get("type") in ("message", "reasoning", "function_call"):
        return {key: value for key, value in item.items() if key != "status" and value is not None}
    return dict(item)


@dataclass
class Items:
    """A reply under construction from stream events."""

    endpoint: Endpoint
    seen: bool = False
    """Whether anything at all has come."""
    _done: bool = False
    _items: dict[int, dict[str, Any]] = field(default_factory=dict)
    _stop: Stop = "end"
    _usage: Usage = field(default_factory=Usage)
    _written: int = 0

    def add(self, event: Mapping[str, Any]) -> list[Piece]:
        """Take in one event. Raises: Refusal for a failure told inside the stream; KeyError, … for what is no event."""
        self.seen = True
        match event["type"]:
            case "response.output_text.delta" | "response.refusal.delta":
                return [Piece(kind="text", text=str(event["delta"]))]
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return [Piece(kind="reasoning", text=str(event["delta"]))]
            case "response.function_call_arguments.delta":
                return [Piece(kind="call", text=str(event["delta"]))]
            case "response.output_item.added" if event["item"].get("type") == "function_call":
                return [Piece(kind="call", text=f"{event['item']['name']} ")]
            case "response.output_item.done":
                # llama.cpp numbers no items; they come one after the other.
                self._items[int(event.get("output_index", len(self._items)))] = dict(event["item"])
            case "response.completed" | "response.incomplete":
                self._finish(event["response"])
            case "response.failed":
                error = event["response"].get("error") or {}
                self._fail(str(error.get("code") or ""), str(error.get("message") or "no reason given"))
            case "error":
                told = event.get("error") or event
                self._fail(str(told.get("code") or told.get("type") or ""), str(told["message"]))
        return []

    def add_whole(self, answer: Mapping[str, Any]) -> list[Piece]:
        """Take in a reply that was not streamed."""
        self.seen = True
        if answer.get("status") == "failed":
            return self.add({"type": "response.failed", "response": answer})
        self._items = {number: dict(item) for number, item in enumerate(answer["output"])}
        self._finish(answer)
        return [Piece(kind="reasoning", text=self._reasoning()), Piece(kind="text", text=self._text())]

    def complete(self) -> bool:
        """Whether the provider said that it had finished."""
        return self._done

    def reply(self) -> Reply:
        """The reply, when everything has come. Its `native` is what to send back."""
        calls: list[ToolCall] = []
        native: list[dict[str, Any]] = []
        for _, item in sorted(self._items.items()):
            native.append(_returned(item))
            if item.get("type") == "function_call":
                args, bad_args = read_args(item.get("arguments") or "")
                calls.append(ToolCall(id=item["call_id"], name=item["name"], args=args, bad_args=bad_args))
                native[-1]["arguments"] = json.dumps(shown_args(calls[-1]))
        stop = self._stop
        if any(part.get("type") == "refusal" for part in self._parts()):
            stop = "refusal"
        elif calls and stop == "end":
            stop = "tools"
        return Reply(
            text=self._text(),
            calls=tuple(calls),
            usage=self._usage,
            stop=stop,
            reasoning=self._reasoning(),
            citations=self._citations(),
            cache_written_tokens=self._written,
            native=tuple(native),
        )

    def _finish(self, response: Mapping[str, Any]) -> None:
        self._done = True
        if response.get("output"):  # some compatible servers send items only here
            self._items = {number: dict(item) for number, item in enumerate(response["output"])}
        why = (response.get("incomplete_details") or {}).get("reason")
        if response.get("status") == "incomplete" or why:
            self._stop = "refusal" if why == "content_filter" else "length"
        usage = response.get("usage") or {}
        self._usage = Usage(
            input_tokens=usage.get("input_tokens") or 0,
            cached_tokens=(usage.get("input_tokens_details") or {}).get("cached_tokens") or 0,
            output_tokens=usage.get("output_tokens") or 0,
            reasoning_tokens=(usage.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
        )
        self._written = (usage.get("input_tokens_details") or {}).get("cache_write_tokens") or 0

    def _fail(self, code: str, said: str) -> None:
        raise Refusal(self.endpoint.failure(None, code, said))

    def _parts(self) -> list[Mapping[str, Any]]:
        return [part for _, item in sorted(self._items.items()) if item.get("type") == "message" for part in item["content"]]

    def _text(self) -> str:
        return "".join(str(part.get("text") or part.get("refusal") or "") for part in self._parts())

    def _reasoning(self) -> str:
        thoughts = [item for _, item in sorted(self._items.items()) if item.get("type") == "reasoning"]
        parts = [part for item in thoughts for part in (*(item.get("summary") or ()), *(item.get("content") or ()))]
        return "\n".join(str(part.get("text") or "") for part in parts)

    def _citations(self) -> tuple[Citation, ...]:
        found: dict[str, Citation] = {}
        for part in self._parts():
            for note in part.get("annotations") or ():
                if note.get("type") == "url_citation":
                    found.setdefault(note["url"], Citation(url=note["url"], title=note.get("title") or ""))
        return tuple(found.values())
