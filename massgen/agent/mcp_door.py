"""The two coordination calls as an MCP server, in the few words of the protocol that its clients need.

Streamable HTTP without streams: each POST is one JSON-RPC message and its answer. The `mcp` package is not used: it would bring a
web framework to read what an untrusted container sends, for two tools whose list is a table and whose state lies elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from massgen.agent.httpd import Answer, Asked
from massgen.agent.notaken import NotTaken, parsed
from massgen.messages import ToolSpec

Call = Callable[[str, Mapping[str, Any]], Awaitable[tuple[str, bool]]]
"""A tool's name and arguments; what the model is told, and whether it went well."""
VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
NO_METHOD, BAD_REQUEST = -32601, -32600


async def answer(asked: Asked, tools: Sequence[ToolSpec], call: Call) -> Answer:
    """One message of a client."""
    if asked.method != "POST":
        return Answer(status=405)
    try:
        message = parsed(asked.body)
    except (NotTaken, ValueError):
        message = {}
    if not isinstance(message.get("method"), str):
        return _said(None, error=(BAD_REQUEST, "not a JSON-RPC request"))
    if not isinstance(message.get("id"), str | int):
        return Answer(status=202)
    params = message.get("params")
    params = params if isinstance(params, dict) else {}
    match message["method"]:
        case "initialize":
            wanted = params.get("protocolVersion")
            version = wanted if wanted in VERSIONS else VERSIONS[0]
            about = {"name": "massgen", "version": "1"}
            return _said(message["id"], {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about})
        case "ping":
            return _said(message["id"], {})
        case "tools/list":
            listed = [{"name": t.name, "description": t.description, "inputSchema": dict(t.parameters)} for t in tools]
            return _said(message["id"], {"tools": listed})
        case "tools/call":
            args = params.get("arguments")
            text, ok = await call(str(params.get("name")), args if isinstance(args, dict) else {})
            return _said(message["id"], {"content": [{"type": "text", "text": text}], "isError": not ok})
        case _:
            return _said(message["id"], error=(NO_METHOD, "no such method"))


def _said(number: str | int | None, result: object = None, *, error: tuple[int, str] | None = None) -> Answer:
    body: dict[str, object] = {"jsonrpc": "2.0", "id": number}
    body |= {"error": {"code": error[0], "message": error[1]}} if error else {"result": result}
    return Answer(status=200, body=json.dumps(body).encode())
