"""What a provider on this machine says, in each of the four protocols: in pieces and whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

WORDS = ["Hello", ", ", "world", "."]
ONE_CALL = [("shell", '{"command": "ls -l"}')]
TWO_CALLS = [*ONE_CALL, ("read_file", '{"path": "a.py"}')]
CUT_CALL = [("write_file", '{"path": "a.py", "content": "def f(')]
THINKING = {"type": "thinking", "thinking": "Let me see.", "signature": "c2lnbmVk"}
DETAIL = {"type": "reasoning.encrypted", "data": "b3BhcXVl"}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Let me see."}],
    "encrypted_content": "b3BhcXVl",
}
REDACTED = {"type": "redacted_thinking", "data": "b3BhcXVl"}

CITED = (("https://example.org/a", "A page"), ("https://example.org/b?x=1", "Another"))
"""What the provider's own search found: address and title."""
SEARCHED = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "pages"}},
    {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [
            {"type": "web_search_result", "url": url, "title": title, "encrypted_content": "b3Bh"} for url, title in CITED
        ],
    },
]
SEARCH_CALL = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "pages"}}

Event = tuple[str, Any]


@dataclass
class Script:
    """What one reply says."""

    words: list[str] = field(default_factory=lambda: list(WORDS))
    calls: list[tuple[str, str]] = field(default_factory=list)
    stop: str = "end"
    thinking: bool = False
    searched: bool = False
    """Whether the provider's own search ran, and the words are from what it found."""
    details: bool = True
    """Whether thoughts come in the provider's own sealed form, too."""
    mark: str = ""
    """After the ids of its calls, where one conversation has several of a tool."""
    tokens: tuple[int, int, int, int] = (120, 100, 30, 12)
    """Input (cached ones included), cached, output (reasoning included), reasoning: by our own rule."""


SCRIPTS = {
    "text": Script(),
    "call": Script(words=["Looking."], calls=ONE_CALL, stop="tools"),
    "calls": Script(words=[], calls=TWO_CALLS, stop="tools"),
    "cut_call": Script(words=[], calls=CUT_CALL, stop="length"),
    "length": Script(stop="length"),
    "refusal": Script(words=["No."], stop="refusal"),
    "thinking": Script(calls=ONE_CALL, stop="tools", thinking=True),
    "thinking_plainly": Script(calls=ONE_CALL, stop="tools", thinking=True, details=False),
    "searched": Script(searched=True),
    "flood": Script(words=["x" * 2**20] * 40),
}


class Chat:
    """Chat Completions."""

    STOPS: ClassVar = {"end": "stop", "tools": "tool_calls", "length": "length", "refusal": "content_filter"}

    def usage(self, script: Script) -> dict[str, Any]:
        given, cached, output, reasoning = script.tokens
        return {
            "prompt_tokens": given,
            "completion_tokens": output,
            "total_tokens": given + output,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def events(self, script: Script) -> Iterator[Event]:
        yield self._delta({"role": "assistant", "content": ""})
        if script.thinking:
            for piece in ("Let me ", "see."):
                yield self._delta({"reasoning_content": piece})
            if script.details:
                yield self._delta({"reasoning_details": [DETAIL]})
        for word in script.words:
            yield self._delta({"content": word})
        if script.searched:
            noted = self._noted()
            yield self._delta({"annotations": noted[:1]})
            yield "", {"id": "x", "object": "chat.completion.chunk", "choices": [], "citations": [CITED[0][0]]}
            yield self._delta({"annotations": noted[1:]})
        for number, (name, _) in enumerate(script.calls):
            head = {
                "index": number,
                "id": f"call_{name}{script.mark}",
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }
            yield self._delta({"tool_calls": [head]})
        # The pieces of parallel calls come interleaved.
        for start in range(0, max((len(args) for _, args in script.calls), default=0), 5):
            for number, (_, args) in enumerate(script.calls):
                if piece := args[start : start + 5]:
                    yield self._delta({"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
        yield self._delta({}, self.STOPS[script.stop])
        yield "", {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": self.usage(script)}
        yield "", "[DONE]"

    def whole(self, script: Script) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(script.words)}
        if script.thinking:
            message |= {"reasoning_content": "Let me see."} | ({"reasoning_details": [DETAIL]} if script.details else {})
        if script.searched:
            message["annotations"] = self._noted()
        if script.calls:
            message["tool_calls"] = [
                {"id": f"call_{name}{script.mark}", "type": "function", "function": {"name": name, "arguments": args}}
                for name, args in script.calls
            ]
        choice = {"index": 0, "message": message, "finish_reason": self.STOPS[script.stop]}
        return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": self.usage(script)}

    def trouble(self) -> Event:
        return "error", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

    def _noted(self) -> list[dict[str, Any]]:
        return [{"type": "url_citation", "url_citation": {"url": url, "title": title}} for url, title in CITED]

    def _delta(self, delta: dict[str, Any], finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return "", {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}


class Messages:
    """Anthropic's Messages."""

    STOPS: ClassVar = {"end": "end_turn", "tools": "tool_use", "length": "max_tokens", "refusal": "refusal"}

    def usage(self, script: Script) -> dict[str, Any]:
        given, cached, output, reasoning = script.tokens
        written = min(5, given - cached)
        return {
            "input_tokens": given - cached - written,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
            "output_tokens": output,
            "output_tokens_details": {"thinking_tokens": reasoning},
        }

    def events(self, script: Script) -> Iterator[Event]:
        head = {"id": "x", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
        usage = self.usage(script)
        early = {key: value for key, value in usage.items() if key != "output_tokens_details"} | {"output_tokens": 1}
        yield "message_start", {"type": "message_start", "message": {**head, "usage": early}}
        yield "ping", {"type": "ping"}
        number = 0
        if script.thinking:
            yield from self._block(0, {"type": "thinking", "thinking": "", "signature": ""}, self._thinking())
            yield from self._block(1, REDACTED, [])
            number = 2
        if script.searched:
            call, found = SEARCHED
            asked = [{"type": "input_json_delta", "partial_json": json.dumps(call["input"])}]
            yield from self._block(number, {**call, "input": {}}, asked)
            yield from self._block(number + 1, found, [])
            number += 2
        if script.words:
            deltas: list[dict[str, Any]] = [{"type": "text_delta", "text": word} for word in script.words]
            if script.searched:
                deltas += [{"type": "citations_delta", "citation": self._citation(*one)} for one in CITED]
            yield from self._block(number, {"type": "text", "text": ""}, deltas)
            number += 1
        for place, (name, args) in enumerate(script.calls, start=number):
            pieces = [{"type": "input_json_delta", "partial_json": args[at : at + 5]} for at in range(0, len(args), 5)]
            yield from self._block(
                place, {"type": "tool_use", "id": f"call_{name}{script.mark}", "name": name, "input": {}}, pieces
            )
        delta = {"stop_reason": self.STOPS[script.stop], "stop_sequence": None}
        late = {key: usage[key] for key in ("output_tokens", "output_tokens_details")}
        yield "message_delta", {"type": "message_delta", "delta": delta, "usage": late}
        yield "message_stop", {"type": "message_stop"}

    def whole(self, script: Script) -> dict[str, Any]:
        content: list[dict[str, Any]] = [THINKING, REDACTED] if script.thinking else []
        content += SEARCHED if script.searched else []
        if script.words:
            cited = {"citations": [self._citation(*one) for one in CITED]} if script.searched else {}
            content.append({"type": "text", "text": "".join(script.words), **cited})
        content += [
            {"type": "tool_use", "id": f"call_{name}{script.mark}", "name": name, "input": json.loads(args)}
            for name, args in script.calls
        ]
        head = {"id": "x", "type": "message", "role": "assistant", "model": "m", "content": content}
        return {**head, "stop_reason": self.STOPS[script.stop], "usage": self.usage(script)}

    def trouble(self) -> Event:
        return "error", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

    def _citation(self, url: str, title: str) -> dict[str, Any]:
        where = {"url": url, "title": title, "encrypted_index": "b3Bh", "cited_text": "Hello"}
        return {"type": "web_search_result_location", **where}

    def _thinking(self) -> list[dict[str, Any]]:
        return [
            {"type": "thinking_delta", "thinking": THINKING["thinking"][:5]},
            {"type": "thinking_delta", "thinking": THINKING["thinking"][5:]},
            {"type": "signature_delta", "signature": THINKING["signature"]},
        ]

    def _block(self, number: int, block: dict[str, Any], deltas: list[dict[str, Any]]) -> Iterator[Event]:
        yield "content_block_start", {"type": "content_block_start", "index": number, "content_block": block}
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": number, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": number}


class Responses:
    """OpenAI's Responses."""

    def usage(self, script: Script) -> dict[str, Any]:
        given, cached, output, reasoning = script.tokens
        return {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": given + output,
        }

    def events(self, script: Script) -> Iterator[Event]:
        yield self._event("response.created", response=self._response([], "in_progress", script))
        items = self._items(script)
        for index, item in enumerate(items):
            yield self._event("response.output_item.added", output_index=index, item=self._begun(item))
            for kind, piece in self._pieces(item, script):
                yield self._event(kind, output_index=index, item_id=item["id"], delta=piece, content_index=0, summary_index=0)
            yield self._event("response.output_item.done", output_index=index, item=item)
        end = self._response(items, self._status(script), script)
        yield self._event(f"response.{self._status(script)}", response=end)

    def whole(self, script: Script) -> dict[str, Any]:
        return self._response(self._items(script), self._status(script), script)

    def _status(self, script: Script) -> str:
        return "incomplete" if script.stop == "length" else "completed"

    def trouble(self) -> Event:
        return "error", {"type": "error", "code": "server_error", "message": "Overloaded", "param": None, "sequence_number": 9}

    def _items(self, script: Script) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = [dict(REASONING)] if script.thinking else []
        text = "".join(script.words)
        noted: list[dict[str, Any]] = []
        if script.searched:
            items.append(dict(SEARCH_CALL))
            noted = [{"type": "url_citation", "url": u, "title": t, "start_index": 0, "end_index": 5} for u, t in CITED]
        if text:
            part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": noted}
            part = {"type": "refusal", "refusal": text} if script.stop == "refusal" else part
            items.append({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]})
        for name, args in script.calls:
            call = {
                "type": "function_call",
                "id": f"fc_{name}{script.mark}",
                "call_id": f"call_{name}{script.mark}",
                "name": name,
                "arguments": args,
            }
            items.append({**call, "status": "completed"})
        return items

    def _begun(self, item: dict[str, Any]) -> dict[str, Any]:
        empty = {"message": {"content": []}, "function_call": {"arguments": ""}, "reasoning": {"summary": []}}
        return {**item, **empty.get(item["type"], {})}

    def _pieces(self, item: dict[str, Any], script: Script) -> list[tuple[str, str]]:
        match item["type"]:
            case "message":
                kind = "response.refusal.delta" if script.stop == "refusal" else "response.output_text.delta"
                return [(kind, word) for word in script.words]
            case "function_call":
                args = item["arguments"]
                return [("response.function_call_arguments.delta", args[at : at + 5]) for at in range(0, len(args), 5)]
            case "web_search_call":
                return []
            case _:
                return [("response.reasoning_summary_text.delta", piece) for piece in ("Let me ", "see.")]

    def _event(self, kind: str, **more: Any) -> Event:
        return kind, {"type": kind, "sequence_number": 1, **more}

    def _response(self, items: list[dict[str, Any]], status: str, script: Script) -> dict[str, Any]:
        why = {"reason": "max_output_tokens"} if status == "incomplete" else None
        usage = None if status == "in_progress" else self.usage(script)
        return {
            "id": "resp_1",
            "object": "response",
            "model": "m",
            "status": status,
            "output": items,
            "incomplete_details": why,
            "usage": usage,
            "error": None,
        }


class Gemini:
    """Google's generateContent."""

    STOPS: ClassVar = {"end": "STOP", "tools": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY"}

    def usage(self, script: Script) -> dict[str, Any]:
        given, cached, output, reasoning = script.tokens
        return {
            "promptTokenCount": given,
            "cachedContentTokenCount": cached,
            "candidatesTokenCount": output - reasoning,
            "thoughtsTokenCount": reasoning,
            "totalTokenCount": given + output,
        }

    def events(self, script: Script) -> Iterator[Event]:
        for part in self._parts(script):
            yield "", self._chunk([part])
        yield "", self._end([], script)

    def whole(self, script: Script) -> dict[str, Any]:
        return self._end(self._parts(script), script)

    def trouble(self) -> Event:
        return "", {"error": {"code": 503, "status": "UNAVAILABLE", "message": "Overloaded"}}

    def _parts(self, script: Script) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        if script.thinking:
            parts += [{"text": piece, "thought": True} for piece in ("Let me ", "see.")]
        parts += [{"text": word} for word in script.words]
        for number, (name, args) in enumerate(script.calls):
            signed = {"thoughtSignature": "c2lnbmVk"} if script.thinking and not number else {}
            parts.append({"functionCall": {"id": f"call_{name}{script.mark}", "name": name, "args": json.loads(args)}, **signed})
        return parts

    def _end(self, parts: list[dict[str, Any]], script: Script) -> dict[str, Any]:
        last = self._chunk(parts, self.STOPS[script.stop])
        if script.searched:
            found = [{"web": {"uri": url, "title": title}} for url, title in CITED]
            last["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["pages"], "groundingChunks": found}
        return {**last, "usageMetadata": self.usage(script)}

    def _chunk(self, parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
        ended = {"finishReason": finish} if finish else {}
        return {"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, **ended}], "modelVersion": "m"}


Wire = Chat | Messages | Responses | Gemini


def wire_of(path: str) -> Wire:
    """By the address that was asked."""
    path = path.partition("?")[0]
    if path.endswith("/chat/completions"):
        return Chat()
    if path.endswith("/responses"):
        return Responses()
    return Gemini() if "enerateContent" in path else Messages()
