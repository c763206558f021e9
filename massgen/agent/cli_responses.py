"""What `codex` says and hears, in our own language: PURE, both ways; see `cli_messages.py` for what is read, dropped and refused.

Tools of an MCP server's namespace (`mcp__massgen`, `vote`) become one name and are taken apart again on the way back.
Items that a turn consists of, encrypted reasoning among them, go back to the provider in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4

from massgen.agent.notaken import NotTaken, image, most_tokens, parsed
from massgen.messages import Image, Message, Reply, Request, ToolCall, ToolResult, ToolSpec

SPLIT = "__"
MCP = "mcp__"
TURN = ("reasoning", "function_call", "message")
SPOKEN = {"user": "input_text", "developer": "input_text", "system": "input_text", "assistant": "output_text"}


def read(body: bytes) -> tuple[str, Request]:
    """The model that is asked for, and the request. Raises NotTaken."""
    try:
        asked = parsed(body)
        for key in ("previous_response_id", "conversation", "prompt", "background"):
            if asked.get(key):
                raise NotTaken(f"`{key}` is not allowed here")
        instructions = str(asked.get("instructions") or "")
        messages = [Message(role="system", text=instructions)] if instructions else []
        messages += _messages(asked["input"])
        return str(asked["model"]), Request(
            messages=tuple(messages),
            tools=tuple(spec for tool in asked.get("tools") or () for spec in _tools(tool)),
            max_tokens=most_tokens(asked.get("max_output_tokens")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotTaken(f"not a Responses request: {type(error).__name__}") from None


def _tools(tool: Mapping[str, Any], prefix: str = "") -> Iterator[ToolSpec]:
    if tool["type"] == "namespace" and not prefix and str(tool["name"]).startswith(MCP):
        for inner in tool["tools"]:
            yield from _tools(inner, f"{tool['name']}{SPLIT}")
    elif tool["type"] == "function":
        parameters = dict(tool.get("parameters") or {"type": "object", "properties": {}})
        yield ToolSpec(name=f"{prefix}{tool['name']}", description=str(tool.get("description") or ""), parameters=parameters)
    else:
        raise NotTaken(f"a tool of type {str(tool['type'])[:40]!r} is not allowed here")


def _messages(items: Iterable[Mapping[str, Any]]) -> Iterator[Message]:
    """Neighbouring items of the model are one turn of it; neighbouring results are one message."""
    turn: list[Mapping[str, Any]] = []
    results: list[ToolResult] = []
    for item in items:
        kind = item.get("type", "message")
        own = kind in TURN and (kind != "message" or item["role"] == "assistant")
        if turn and not own:
            yield _turn(turn)
            turn = []
        if results and kind != "function_call_output":
            yield Message(role="tool", results=tuple(results))
            results = []
        if own:
            turn.append(item)
        elif kind == "function_call_output":
            text, _ = _content(item["output"], "input_text")
            results.append(ToolResult(call_id=str(item["call_id"]), text=text))
        elif kind == "message":
            text, images = _content(item["content"], SPOKEN[item["role"]])
            # What the program puts in as a developer is the program's word, not ours: a user's.
            yield Message(role="user", text=text, images=images)
        else:
            raise NotTaken(f"an item of type {str(kind)[:40]!r} is not allowed here")
    if turn:
        yield _turn(turn)
    if results:
        yield Message(role="tool", results=tuple(results))


def _content(content: Any, kind: str) -> tuple[str, tuple[Image, ...]]:  # noqa: ANN401 - whatever a stranger sent
    if isinstance(content, str):
        return content, ()
    texts: list[str] = []
    images: list[Image] = []
    for part in content:
        if part["type"] == kind:
            texts.append(str(part["text"]))
        elif part["type"] == "input_image":
            images.append(_image(part["image_url"]))
        else:
            raise NotTaken(f"content of type {str(part['type'])[:40]!r} is not allowed here")
    return "\n".join(texts), tuple(images)


def _image(url: str) -> Image:
    head, _, data = url.partition(";base64,")
    if not head.startswith("data:"):
        raise NotTaken("an image that is not in the request itself")
    return image(head.removeprefix("data:"), data)


def _turn(items: Iterable[Mapping[str, Any]]) -> Message:
    native: list[dict[str, Any]] = []
    calls: list[ToolCall] = []
    text = ""
    for item in items:
        if item.get("type") == "reasoning":
            kept = {key: item[key] for key in ("id", "encrypted_content") if isinstance(item.get(key), str)}
            summary = [{"type": "summary_text", "text": str(part["text"])} for part in item.get("summary") or ()]
            native.append({"type": "reasoning", **kept, "summary": summary})
        elif item.get("type") == "function_call":
            name = f"{item['namespace']}{SPLIT}{item['name']}" if item.get("namespace") else str(item["name"])
            args = json.loads(item["arguments"])
            calls.append(ToolCall(id=str(item["call_id"]), name=name, args=dict(args)))
            native.append({"type": "function_call", "call_id": calls[-1].id, "name": name, "arguments": str(item["arguments"])})
        else:
            parts = [{"type": "output_text", "text": _content([part], "output_text")[0]} for part in item["content"]]
            text += "".join(part["text"] for part in parts)
            native.append({"type": "message", "role": "assistant", "content": parts})
    return Message(role="assistant", text=text, calls=tuple(calls), native=tuple(native))


def _event(kind: str, **more: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


def write(reply: Reply, *, model: str) -> bytes:
    """A reply as the events of a stream. One that was cut is told as ended: the program would ask for all of it again."""
    usage = reply.usage
    items = [_told(dict(item)) for item in reply.native or () if item.get("type") in TURN]
    response = {"id": f"resp_{uuid4().hex}", "object": "response", "model": model, "status": "completed", "output": items}
    counted = {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    out = [_event("response.created", response={**response, "status": "in_progress", "output": []})]
    out += [_event("response.output_item.done", output_index=number, item=item) for number, item in enumerate(items)]
    return b"".join([*out, _event("response.completed", response={**response, "usage": counted})])


def _told(item: dict[str, Any]) -> dict[str, Any]:
    if item.get("type") == "message":
        parts = [{"type": "output_text", "text": str(p.get("text") or p.get("refusal") or "")} for p in item["content"]]
        return {**item, "content": parts}
    if item.get("type") != "function_call" or not item["name"].startswith(MCP):
        return item
    namespace, _, name = item["name"].rpartition(SPLIT)
    return {**item, "namespace": namespace, "name": name}


def refused(why: str, *, missing: bool = False) -> tuple[int, bytes]:
    """A refusal of ours, in the provider's words; `missing`: there is no such model or address."""
    status, kind = (404, "not_found_error") if missing else (400, "invalid_request_error")
    return status, json.dumps({"error": {"type": kind, "code": kind, "message": why}}).encode()
