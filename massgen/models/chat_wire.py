"""Our messages as Chat Completions wants them, and its chunks as our reply. Plain tables in and out, no SDK.

"OpenAI-compatible" is a family of habits. What is tolerated here, each seen in a server people use: parallel calls
all numbered 0 but with ids of their own, calls without number or id, the finish reason `stop` after tool calls,
arguments that are an object instead of its JSON text, usage in every chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from massgen.messages import Message, Reply, Stop, ToolCall, ToolSpec, Usage

_STOPS: Final[Mapping[str, Stop]] = {
    "stop": "end",
    "tool_calls": "tools",
    "function_call": "tools",
    "length": "length",
    "content_filter": "refusal",
}


def to_wire(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """A transcript as the `messages` of a request."""
    wire: list[dict[str, Any]] = []
    for message in messages:
        match message.role:
            case "tool":
                wire += [{"role": "tool", "tool_call_id": result.call_id, "content": result.text} for result in message.results]
            case "assistant" if message.calls:
                wire.append(
                    {
                        "role": "assistant",
                        "content": message.text or None,
                        "tool_calls": [_call_to_wire(c) for c in message.calls],
                    }
                )
            case role:
                wire.append({"role": role, "content": message.text})
    return wire


def tools_to_wire(tools: Iterable[ToolSpec]) -> list[dict[str, Any]]:
    """Tool descriptions as the `tools` of a request."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in tools
    ]


def shown_args(call: ToolCall) -> dict[str, Any]:
    """The arguments to show a model of a call it made earlier.

    Broken text is wrapped: several servers parse the arguments of the history and fail on what their own model wrote.
    """
    return {"malformed_arguments": call.bad_args} if call.bad_args else dict(call.args)


def read_args(text: str) -> tuple[dict[str, Any], str]:
    """Arguments from their JSON text; the text itself comes second when it is not the JSON of an object."""
    if not text.strip():
        return {}, ""
    try:
        args = json.loads(text)
    except ValueError:
        return {}, text
    return (args, "") if isinstance(args, dict) else ({}, text)


def _call_to_wire(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(shown_args(call), ensure_ascii=False)}
    return {"id": call.id, "type": "function", "function": function}


@dataclass(kw_only=True)
class _Slot:
    """One call under construction."""

    id: str = ""
    name: str = ""
    text: str = ""


@dataclass
class Parts:
    """A reply under construction from chunks."""

    seen: bool = False
    """Whether anything at all has come."""
    finish: str | None = None
    _text: list[str] = field(default_factory=list)
    _slots: list[_Slot] = field(default_factory=list)
    _numbers: dict[int, _Slot] = field(default_factory=dict)
    _refused: bool = False
    _usage: Usage = field(default_factory=Usage)

    def add(self, chunk: Mapping[str, Any]) -> str:
        """Take in one chunk; gives its piece of text. Raises: TypeError, ValueError, … for what is no chunk."""
        self.seen = True
        if usage := chunk.get("usage"):
            self._usage = _usage(usage)
        piece = ""
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or {}
            for call in delta.get("tool_calls") or ():
                self._add_call(call)
            self._refused = self._refused or bool(delta.get("refusal"))
            piece += (delta.get("content") or "") + (delta.get("refusal") or "")
            self.finish = choice.get("finish_reason") or self.finish
        self._text.append(piece)
        return piece

    def add_whole(self, completion: Mapping[str, Any]) -> str:
        """Take in a reply that was not streamed."""
        choices = [{**choice, "delta": choice.get("message")} for choice in completion["choices"]]
        return self.add({"choices": choices, "usage": completion.get("usage")})

    def reply(self) -> Reply:
        """The reply, when everything has come."""
        calls = tuple(_finished(slot, number) for number, slot in enumerate(self._slots, start=1))
        stop = _STOPS.get(self.finish or "", "end")
        if self._refused:
            stop = "refusal"
        elif calls and stop == "end":
            stop = "tools"
        return Reply(text="".join(self._text), calls=calls, usage=self._usage, stop=stop)

    def _add_call(self, call: Mapping[str, Any]) -> None:
        slot = self._slot(call.get("index"), call.get("id") or "")
        function = call.get("function") or {}
        # Set once, not joined: servers that repeat the name in each chunk exist, servers that split it were not found.
        slot.name = slot.name or function.get("name") or ""
        arguments = function.get("arguments")
        slot.text += arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""

    def _slot(self, number: int | None, call_id: str) -> _Slot:
        known = self._numbers.get(number) if number is not None else (self._slots[-1] if self._slots and not call_id else None)
        if known is not None and (not call_id or known.id in ("", call_id)):
            known.id = known.id or call_id
            return known
        slot = _Slot(id=call_id)
        self._slots.append(slot)
        if number is not None:
            self._numbers[number] = slot
        return slot


def _finished(slot: _Slot, number: int) -> ToolCall:
    args, bad_args = read_args(slot.text)
    return ToolCall(id=slot.id or f"call_{number}", name=slot.name, args=args, bad_args=bad_args)


def _usage(usage: Mapping[str, Any]) -> Usage:
    return Usage(
        input_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or 0,
        reasoning_tokens=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
    )


def first_words(completion: Mapping[str, Any]) -> dict[str, float]:
    """Log-probability of each likely first word, in lower case; of spellings of one word the likeliest counts.

    Raises: KeyError, IndexError, TypeError when the server sent no probabilities.
    """
    words: dict[str, float] = {}
    for candidate in completion["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        word, logprob = candidate["token"].strip().lower(), float(candidate["logprob"])
        words[word] = max(logprob, words.get(word, logprob))
    return words
