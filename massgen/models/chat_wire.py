"""Our messages as Chat Completions wants them, and its chunks as our reply. Plain tables in and out, no SDK.

"OpenAI-compatible" is a family of habits. What is tolerated here, each seen in a server people use: parallel calls
all numbered 0 but with ids of their own, calls without number or id, the finish reason `stop` after tool calls,
arguments that are an object instead of its JSON text, usage in every chunk, reasoning under two names. What a server
wants back unread (reasoning details, signatures of calls) is kept as the message's `native`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from massgen.messages import Citation, Image, Message, Piece, Reply, Stop, ToolCall, ToolSpec, Usage

_STOPS: Final[Mapping[str, Stop]] = {
    "stop": "end",
    "tool_calls": "tools",
    "function_call": "tools",
    "length": "length",
    "content_filter": "refusal",
}


def to_wire(messages: Iterable[Message], *, thoughts: bool = True) -> list[dict[str, Any]]:
    """A transcript as the `messages` of a request. `thoughts`: also what the model thought before its calls."""
    wire: list[dict[str, Any]] = []
    for message in messages:
        match message.role:
            case "tool":
                wire += [{"role": "tool", "tool_call_id": result.call_id, "content": result.text} for result in message.results]
                if pictures := [image for result in message.results for image in result.images]:
                    # A result is text in this protocol; what it shows comes right after it.
                    wire.append(_shown("[what the tools showed:]", pictures))
            case "assistant":
                wire.append(_assistant(message, thoughts=thoughts))
            case "user" if message.images:
                wire.append(_shown(message.text, message.images))
            case role:
                wire.append({"role": role, "content": message.text})
    return wire


def _shown(text: str, images: Iterable[Image]) -> dict[str, Any]:
    pictures = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return {"role": "user", "content": [{"type": "text", "text": text}, *pictures]}


def data_url(image: Image) -> str:
    """A picture as text that needs no second request."""
    return f"data:{image.media_type};base64,{image.base64}"


def _assistant(message: Message, *, thoughts: bool) -> dict[str, Any]:
    native = message.native if isinstance(message.native, Mapping) else {}
    wire: dict[str, Any] = {"role": "assistant", "content": message.text, **native.get("message", {})}
    if not thoughts:
        wire = {name: value for name, value in wire.items() if name not in _THOUGHTS}
    if message.calls:
        extra = native.get("calls", {})
        wire["content"] = message.text or None
        wire["tool_calls"] = [_call_to_wire(call) | extra.get(call.id, {}) for call in message.calls]
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
    extra: dict[str, Any] = field(default_factory=dict)
    """What the server wants back with the call, such as a signature."""


_THOUGHTS: Final = ("reasoning_content", "reasoning")
"""Where servers show what a model thinks. Some want it back with the calls that it led to, under the same name."""
_RETURNED: Final = ("reasoning_details",)
"""Fields of a message that some servers must see again to go on thinking."""
_RETURNED_CALL: Final = ("extra_content",)


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
    _thought: list[str] = field(default_factory=list)
    _thought_name: str = ""
    _returned: dict[str, list[Any]] = field(default_factory=dict)
    _cited: dict[str, Citation] = field(default_factory=dict)
    _usage: Usage = field(default_factory=Usage)
    _written: int = 0

    def add(self, chunk: Mapping[str, Any]) -> list[Piece]:
        """Take in one chunk. Raises: TypeError, ValueError, … for what is no chunk."""
        self.seen = True
        if usage := chunk.get("usage"):
            self._usage = usage_of(usage)
            self._written = (usage.get("prompt_tokens_details") or {}).get("cache_write_tokens") or 0
        self._cite(chunk.get("citations"))
        pieces: list[Piece] = []
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or {}
            name = next((name for name in _THOUGHTS if delta.get(name)), "")
            thought = str(delta[name]) if name else ""
            self._thought_name = self._thought_name or name
            text = (delta.get("content") or "") + (delta.get("refusal") or "")
            self._thought.append(thought)
            self._text.append(text)
            pieces += [Piece(kind="reasoning", text=thought), Piece(kind="text", text=text)]
            pieces += [Piece(kind="call", text=self._add_call(call)) for call in delta.get("tool_calls") or ()]
            self._refused = self._refused or bool(delta.get("refusal"))
            self._cite(delta.get("annotations"))
            for name in _RETURNED:
                self._returned.setdefault(name, []).extend(delta.get(name) or ())
            self.finish = choice.get("finish_reason") or self.finish
        return pieces

    def add_whole(self, answer: Mapping[str, Any]) -> list[Piece]:
        """Take in a reply that was not streamed."""
        choices = [{**choice, "delta": choice.get("message")} for choice in answer["choices"]]
        return self.add({**answer, "choices": choices})

    def complete(self) -> bool:
        """Whether a finish reason came."""
        return self.finish is not None

    def reply(self) -> Reply:
        """The reply, when everything has come."""
        calls = _apart(_finished(slot, number) for number, slot in enumerate(self._slots, start=1))
        stop = _STOPS.get(self.finish or "", "end")
        if self._refused:
            stop = "refusal"
        elif calls and stop == "end":
            stop = "tools"
        returned: dict[str, Any] = {name: value for name, value in self._returned.items() if value}
        if calls and self._thought_name and not returned:
            returned[self._thought_name] = "".join(self._thought)
        signed = {call.id: slot.extra for call, slot in zip(calls, self._slots, strict=True) if slot.extra}
        return Reply(
            text="".join(self._text),
            calls=calls,
            usage=self._usage,
            stop=stop,
            reasoning="".join(self._thought),
            citations=tuple(self._cited.values()),
            cache_written_tokens=self._written,
            native={"message": returned, "calls": signed} if returned or signed else None,
        )

    def _add_call(self, call: Mapping[str, Any]) -> str:
        slot = self._slot(call.get("index"), call.get("id") or "")
        function = call.get("function") or {}
        # Set once, not joined: servers that repeat the name in each chunk exist, servers that split it were not found.
        named = not slot.name and function.get("name")
        slot.name = slot.name or function.get("name") or ""
        slot.extra |= {name: call[name] for name in _RETURNED_CALL if call.get(name)}
        arguments = function.get("arguments")
        piece = arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""
        slot.text += piece
        return f"{slot.name} {piece}" if named else piece

    def _cite(self, found: Any) -> None:  # noqa: ANN401  # JSON of the wire
        """Addresses in either of two shapes: plain text, or an annotation."""
        for one in found or ():
            about = one.get("url_citation") or one if isinstance(one, Mapping) else {"url": one}
            if url := about.get("url"):
                self._cited.setdefault(str(url), Citation(url=str(url), title=str(about.get("title") or "")))

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


def _apart(calls: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    """Calls under ids of their own, where a server gives one id to several: a result belongs to one call."""
    known: dict[str, ToolCall] = {}
    for call in calls:
        own = call.id
        while own in known:
            own += "_"
        known[own] = replace(call, id=own)
    return tuple(known.values())


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """A server's count as ours."""
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
