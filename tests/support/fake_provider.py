"""A provider on this machine that speaks four protocols over real HTTP, and says or fails as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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

MODELS = ("m", "big-m")
DRIP_S = 0.1
"""Between two events of a server that is slow."""

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
STATUSES = {
    "rate_limit": (429, "rate_limit_error", "Too many requests"),
    "rate_limit_with_billing_hint": (429, "rate_limit_error", "Rate limit reached; see https://example.org/account/billing"),
    "quota": (429, "insufficient_quota", "You exceeded your current quota"),
    "server_error": (500, "api_error", "Internal error"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "wrong_key": (401, "authentication_error", "Incorrect API key provided: {key}, also known as sk-pro*****xyz"),
    "no_permission": (403, "permission_error", "Your key may not use this model"),
    "unknown_model": (404, "not_found_error", "model: nothing-4"),
    "overflow": (400, "invalid_request_error", "prompt is too long: 205000 tokens > 200000 maximum context length"),
    "bad_request": (400, "invalid_request_error", "tools.0.name: invalid"),
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


class FakeProvider:
    """Set `mode`, make a call, look at `requests`."""

    def __init__(self) -> None:
        self.mode = "text"
        self.think: Callable[[dict[str, Any]], Script] | None = None
        """Given the request, what to say: instead of the mode's script."""
        self.told: list[tuple[int, int, int, int]] = []
        """The tokens of every reply that went out whole, as the bill would have them."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.clients: list[int] = []
        """The client's port of each request: equal when a connection was used again."""
        self.hung_up = threading.Event()
        """Set when a client closes a connection on which the fake sends nothing more."""
        self._server = _Server(("127.0.0.1", 0), type("Answer", (_Answer,), {"provider": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def fake_provider() -> Iterator[FakeProvider]:
    """A provider that listens as long as the block."""
    provider = FakeProvider()
    try:
        yield provider
    finally:
        provider.close()


class _Answer(BaseHTTPRequestHandler):
    provider: FakeProvider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """The list of models, as each protocol has it."""
        self.provider.paths.append(self.path)
        self.provider.headers.append({key.lower(): value for key, value in self.headers.items()})
        mode = self.provider.mode
        if mode in STATUSES:
            self.refuse(*STATUSES[mode])
        elif self.path.startswith("/v1beta/models"):
            self.send("application/json", json.dumps({"models": [{"name": f"models/{name}"} for name in MODELS]}).encode())
        else:
            data = [{"id": name, "type": "model", "object": "model", "created": 0, "owned_by": "x"} for name in MODELS]
            self.send("application/json", json.dumps({"object": "list", "data": data, "has_more": False}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "GenerateContent" in self.path:  # that protocol says it in the address
            body["stream"] = "stream" in self.path
        elif "enerateContent" in self.path:
            body["stream"] = False
        self.provider.requests.append(body)
        self.provider.paths.append(self.path)
        self.provider.headers.append({key.lower(): value for key, value in self.headers.items()})
        self.provider.clients.append(self.client_address[1])
        wire = _wire(self.path)
        mode = self.provider.mode
        if mode in STATUSES:
            self.refuse(*STATUSES[mode])
        elif said := _habit(mode, body):
            self.refuse(400, "invalid_request_error", said)
        elif mode == "html":
            self.send("text/html", b"<html>Welcome to nginx</html>")
        elif mode == "ignores_streaming" or not body.get("stream"):
            self.send("application/json", json.dumps(wire.whole(SCRIPTS["text"])).encode())
        else:
            script = self.provider.think(body) if self.provider.think else SCRIPTS.get(mode, SCRIPTS["text"])
            try:
                self.stream(wire, mode, script)
                self.provider.told.append(script.tokens)
            except ConnectionError:
                self.provider.hung_up.set()
                self.close_connection = True

    def refuse(self, status: int, kind: str, said: str) -> None:
        given = self.headers["authorization"] or self.headers["x-goog-api-key"] or self.headers["api-key"] or ""
        error = {"type": kind, "code": kind, "message": said.format(key=given.removeprefix("Bearer "))}
        if "enerateContent" in self.path or "v1beta" in self.path:
            error = {"code": status, "status": kind, "message": error["message"]}
        self.send("application/json", json.dumps({"type": "error", "error": error}).encode(), status=status)

    def send(self, kind: str, body: bytes, *, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        if status == 429:
            self.send_header("retry-after", "7")
        self.end_headers()
        self.wfile.write(body)

    def stream(self, wire: Wire, mode: str, script: Script) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        events = list(wire.events(script))
        match mode:
            case "garbage":
                self.chunk(events[0])
                self.chunk((events[0][0], "{not json"))
            case "strange":
                self.chunk(events[0])
                self.chunk((events[0][0], [1, 2, 3]))
            case "disconnect" | "truncated" | "hang":
                for event in events[: len(events) // 2]:
                    self.chunk(event)
            case "error_in_stream":
                self.chunk(events[0])
                self.chunk(wire.trouble())
            case _:
                for event in events:
                    threading.Event().wait(DRIP_S if mode == "drip" else 0)
                    self.chunk(event)
        if mode == "hang" and not self.connection.recv(1):
            self.provider.hung_up.set()
        elif mode != "disconnect":
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = mode in {"hang", "disconnect"}

    def chunk(self, event: Event) -> None:
        name, data = event
        text = data if isinstance(data, str) else json.dumps(data)
        line = (f"event: {name}\n" if name else "") + f"data: {text}\n\n"
        self.wfile.write(f"{len(line.encode()):x}\r\n{line}\r\n".encode())
        self.wfile.flush()


def _habit(mode: str, body: dict[str, Any]) -> str:
    """What a server of this mode has against the request; empty: nothing."""
    match mode:
        case "refuses_streaming" if body.get("stream"):
            return "Streaming is not supported for this model"
        case "refuses_thoughts" if "reasoning_content" in str(body):
            return "'messages.2' : property 'reasoning_content' is unsupported"
        case "refuses_stream_options" if "stream_options" in body:
            return "Unknown parameter: stream_options"
        case "wants_max_completion_tokens" if "max_tokens" in body:
            return "'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    return ""


class _Chat:
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
            noted = [{"type": "url_citation", "url_citation": {"url": url, "title": title}} for url, title in CITED]
            yield self._delta({"annotations": noted[:1]})
            yield "", {"id": "x", "object": "chat.completion.chunk", "choices": [], "citations": [CITED[0][0]]}
            yield self._delta({"annotations": noted[1:]})
        for number, (name, _) in enumerate(script.calls):
            head = {"index": number, "id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": ""}}
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
        message = {"role": "assistant", "content": "".join(script.words)}
        choice = {"index": 0, "message": message, "finish_reason": self.STOPS[script.stop]}
        return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": self.usage(script)}

    def trouble(self) -> Event:
        return "error", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

    def _delta(self, delta: dict[str, Any], finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return "", {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}


class _Messages:
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
            yield from self._block(place, {"type": "tool_use", "id": f"call_{name}", "name": name, "input": {}}, pieces)
        delta = {"stop_reason": self.STOPS[script.stop], "stop_sequence": None}
        late = {key: usage[key] for key in ("output_tokens", "output_tokens_details")}
        yield "message_delta", {"type": "message_delta", "delta": delta, "usage": late}
        yield "message_stop", {"type": "message_stop"}

    def whole(self, script: Script) -> dict[str, Any]:
        content = [{"type": "text", "text": "".join(script.words)}]
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


class _Responses:
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
        cut = script.stop == "length"
        end = self._response(items, "incomplete" if cut else "completed", script)
        yield self._event("response.incomplete" if cut else "response.completed", response=end)

    def whole(self, script: Script) -> dict[str, Any]:
        return self._response(self._items(script), "completed", script)

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
            call = {"type": "function_call", "id": f"fc_{name}", "call_id": f"call_{name}", "name": name, "arguments": args}
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


class _Gemini:
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
        parts: list[dict[str, Any]] = []
        if script.thinking:
            parts += [{"text": piece, "thought": True} for piece in ("Let me ", "see.")]
        parts += [{"text": word} for word in script.words]
        for number, (name, args) in enumerate(script.calls):
            signed = {"thoughtSignature": "c2lnbmVk"} if script.thinking and not number else {}
            parts.append({"functionCall": {"id": f"call_{name}", "name": name, "args": json.loads(args)}, **signed})
        for part in parts:
            yield "", self._chunk([part])
        last = self._chunk([], self.STOPS[script.stop])
        if script.searched:
            found = [{"web": {"uri": url, "title": title}} for url, title in CITED]
            last["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["pages"], "groundingChunks": found}
        yield "", {**last, "usageMetadata": self.usage(script)}

    def whole(self, script: Script) -> dict[str, Any]:
        parts = [{"text": "".join(script.words)}]
        return {**self._chunk(parts, self.STOPS[script.stop]), "usageMetadata": self.usage(script)}

    def trouble(self) -> Event:
        return "", {"error": {"code": 503, "status": "UNAVAILABLE", "message": "Overloaded"}}

    def _chunk(self, parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
        ended = {"finishReason": finish} if finish else {}
        return {"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, **ended}], "modelVersion": "m"}


Wire = _Chat | _Messages | _Responses | _Gemini


def _wire(path: str) -> Wire:
    """By the address that was asked."""
    path = path.partition("?")[0]
    if path.endswith("/chat/completions"):
        return _Chat()
    if path.endswith("/responses"):
        return _Responses()
    return _Gemini() if "enerateContent" in path else _Messages()
