"""Our messages as Gemini's generateContent wants them, and its chunks as our reply. Plain tables in and out, no SDK.

A part that carries a `thoughtSignature` must come back as it was, in its place: the provider refuses a function call whose
signature is gone. So all parts of a turn are kept as the message's `native`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from massgen.messages import Citation, Message, Piece, Reply, Stop, ToolCall, ToolSpec, Usage
from massgen.models.base import Hosted
from massgen.models.chat_wire import shown_args

_STOPS: Final[Mapping[str, Stop]] = {
    "STOP": "end",
    "MAX_TOKENS": "length",
    # A call that the model could not write to its end is no call; there is more to say than was said.
    "MALFORMED_FUNCTION_CALL": "length",
    "UNEXPECTED_TOOL_CALL": "length",
    "SAFETY": "refusal",
    "RECITATION": "refusal",
    "LANGUAGE": "refusal",
    "BLOCKLIST": "refusal",
    "PROHIBITED_CONTENT": "refusal",
    "SPII": "refusal",
    "MODEL_ARMOR": "refusal",
}
_HOSTED: Final[Mapping[Hosted, dict[str, Any]]] = {
    "web_search": {"googleSearch": {}},
    "code_execution": {"codeExecution": {}},
}


def to_wire(messages: Iterable[Message]) -> tuple[str, list[dict[str, Any]]]:
    """A transcript as the system instruction and the `contents` of a request. Neighbours of one role become one."""
    system: list[str] = []
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        if message.role == "system":
            system.append(message.text)
            continue
        names |= {call.id: call.name for call in message.calls}
        role = "model" if message.role == "assistant" else "user"
        if not (parts := _parts(message, names)):
            continue
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"].extend(parts)
        else:
            contents.append({"role": role, "parts": parts})
    return "\n\n".join(system), contents


def tools_to_wire(tools: Iterable[ToolSpec], hosted: Iterable[Hosted] = ()) -> list[dict[str, Any]]:
    """Tool descriptions as the `tools` of a request."""
    declared = [
        {"name": tool.name, "description": tool.description, "parametersJsonSchema": dict(tool.parameters)} for tool in tools
    ]
    own: list[dict[str, Any]] = [{"functionDeclarations": declared}] if declared else []
    return own + [_HOSTED[name] for name in sorted(hosted)]


def _parts(message: Message, names: Mapping[str, str]) -> list[dict[str, Any]]:
    if isinstance(message.native, tuple):
        return list(message.native)
    parts: list[dict[str, Any]] = [
        {
            "functionResponse": {
                "id": result.call_id,
                "name": names.get(result.call_id, "tool"),
                "response": {"output" if result.ok else "error": result.text},
            }
        }
        for result in message.results
    ]
    images = [*(image for result in message.results for image in result.images), *message.images]
    parts += [{"inlineData": {"mimeType": i.media_type, "data": i.base64}} for i in images]
    if message.text:
        parts.append({"text": message.text})
    parts += [{"functionCall": {"id": call.id, "name": call.name, "args": shown_args(call)}} for call in message.calls]
    return parts


@dataclass
class Candidate:
    """A reply under construction from chunks."""

    seen: bool = False
    """Whether anything at all has come."""
    finish: str | None = None
    _parts: list[dict[str, Any]] = field(default_factory=list)
    _usage: Mapping[str, Any] = field(default_factory=dict)
    _cited: dict[str, Citation] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> list[Piece]:
        """Take in one chunk. Raises: TypeError, ValueError, … for what is no chunk."""
        self.seen = True
        if not event:
            raise ValueError("a chunk that is none")
        self._usage = event.get("usageMetadata") or self._usage
        if blocked := (event.get("promptFeedback") or {}).get("blockReason"):
            self.finish = "SAFETY"
            self._parts.append({"text": f"[the provider refused the prompt: {blocked}]"})
        pieces: list[Piece] = []
        for candidate in (event.get("candidates") or [])[:1]:
            for part in (candidate.get("content") or {}).get("parts") or ():
                pieces += self._take(dict(part))
            self._cite(candidate.get("groundingMetadata") or {})
            self.finish = candidate.get("finishReason") or self.finish
        return pieces

    def add_whole(self, answer: Mapping[str, Any]) -> list[Piece]:
        """Take in a reply that was not streamed."""
        return self.add(answer)

    def complete(self) -> bool:
        """Whether a finish reason came."""
        return self.finish is not None

    def reply(self) -> Reply:
        """The reply, when everything has come. Its `native` is what to send back."""
        calls: list[ToolCall] = []
        for part in self._parts:
            if call := part.get("functionCall"):
                # Older models send no id; the result names the call by it.
                part["functionCall"] = {"id": f"call_{len(calls) + 1}", **{k: v for k, v in call.items() if v is not None}}
                calls.append(ToolCall(id=part["functionCall"]["id"], name=str(call["name"]), args=dict(call.get("args") or {})))
        stop = _STOPS.get(self.finish or "", "end")
        return Reply(
            text="".join(part["text"] for part in self._parts if "text" in part and not part.get("thought")),
            calls=tuple(calls),
            usage=self._total(),
            stop="tools" if calls and stop == "end" else stop,
            reasoning="".join(part["text"] for part in self._parts if "text" in part and part.get("thought")),
            citations=tuple(self._cited.values()),
            native=tuple(self._parts),
        )

    def _take(self, part: dict[str, Any]) -> list[Piece]:
        text, thought = part.get("text"), bool(part.get("thought"))
        last = self._parts[-1] if self._parts else {}
        plain = text is not None and set(part) <= {"text", "thought"}
        if plain and set(last) <= {"text", "thought"} and "text" in last and bool(last.get("thought")) == thought:
            last["text"] += text
        else:
            self._parts.append(part)
        if text is not None:
            return [Piece(kind="reasoning" if thought else "text", text=str(text))]
        if call := part.get("functionCall"):
            return [Piece(kind="call", text=f"{call['name']} {call.get('args') or ''}")]
        return []

    def _cite(self, grounding: Mapping[str, Any]) -> None:
        for chunk in grounding.get("groundingChunks") or ():
            web = chunk.get("web") or {}
            if url := web.get("uri"):
                self._cited.setdefault(url, Citation(url=url, title=web.get("title") or ""))

    def _total(self) -> Usage:
        # The provider counts thinking apart from the answer; ours is part of the output.
        count = self._usage.get
        thoughts = count("thoughtsTokenCount") or 0
        return Usage(
            input_tokens=(count("promptTokenCount") or 0) + (count("toolUsePromptTokenCount") or 0),
            cached_tokens=count("cachedContentTokenCount") or 0,
            output_tokens=(count("candidatesTokenCount") or 0) + thoughts,
            reasoning_tokens=thoughts,
        )
