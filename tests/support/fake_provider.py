"""A provider on this machine that speaks four protocols over real HTTP, and says or fails as it is told to."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.fake_wires import SCRIPTS, Event, Script, Wire, wire_of

MODELS = ("m", "big-m")
PICTURES = ("'image_url'", "'input_image'", "'image'", "'inlineData'")
"""A part of a request is a picture, by the word of one protocol or another."""
OTHERS = ("html", "redirect", "packed", "endless_line")
"""Modes in which it is no provider at all, or one that means harm."""
ENDLESS_BYTES = 20 << 20
"""Of an event that has no end: more than is ever read of one."""
DRIP_S = 0.1
"""Between two events of a server that is slow."""

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
    "filtered": (400, "content_filter", "The prompt triggered our content management policy"),
}


class Server(ThreadingHTTPServer):
    """One thread for each connection. A client that hangs up is none of our failures, and nothing is printed of it."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class FakeProvider:
    """Set `mode`, make a call, look at `requests`."""

    def __init__(self) -> None:
        self.mode = "text"
        self.elsewhere = ""
        """Where it sends whoever asks in the mode `redirect`."""
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
        self._server = Server(("127.0.0.1", 0), type("Answer", (_Answer,), {"provider": self}))
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
        wire = wire_of(self.path)
        mode = self.provider.mode
        if mode in STATUSES:
            self.refuse(*STATUSES[mode])
        elif said := _habit(mode, body):
            self.refuse(400, "invalid_request_error", said)
        elif mode in OTHERS:
            self.be_another(mode)
        else:
            script = self.provider.think(body) if self.provider.think else SCRIPTS.get(mode, SCRIPTS["text"])
            try:
                if mode == "ignores_streaming" or not body.get("stream"):
                    self.send("application/json", json.dumps(wire.whole(script)).encode())
                else:
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

    def be_another(self, mode: str) -> None:
        match mode:
            case "html":
                self.send("text/html", b"<html>Welcome to nginx</html>")
            case "redirect":
                self.send("text/html", b"", status=307, location=self.provider.elsewhere)
            case "packed":
                self.send("text/event-stream", gzip.compress(b"data: {}\n\n"), **{"content-encoding": "gzip"})
            case "endless_line":
                with suppress(ConnectionError):
                    self.send("text/event-stream", b"data: " + b"a" * ENDLESS_BYTES)

    def send(self, kind: str, body: bytes, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, **headers}.items():
            self.send_header(name, value)
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
        case "refuses_pictures" if any(word in str(body) for word in PICTURES):
            return "This model does not support image input"
        case "refuses_thoughts" if "reasoning_content" in str(body):
            return "'messages.2' : property 'reasoning_content' is unsupported"
        case "refuses_stream_options" if "stream_options" in body:
            return "Unknown parameter: stream_options"
        case "wants_max_completion_tokens" if "max_tokens" in body:
            return "'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    return ""
