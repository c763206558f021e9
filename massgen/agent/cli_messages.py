"""What `claude` says and hears, in our own language: PURE, both ways.

A request is read into a `Request` of ours, and what has no place in one is gone with that: headers, addresses, betas, the
identity of the user, sampling, marks for the provider's cache (the adapter sets its own, wherever the program does). What would
make the provider fetch or run something (hosted tools, MCP servers, links and file references) is refused, not dropped, because
a call that quietly does less than it was asked is found by nobody. A reply is told as the events of its own protocol.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4

from massgen.agent.notaken import NotTaken, image, most_tokens, parsed
from massgen.messages import Image, Message, Reply, Request, ToolCall, ToolResult, ToolSpec


def read(body: bytes) -> tuple[str, Request]:
    """The model that is asked for, and the request. Raises NotTaken."""
    try:
        asked = parsed(body)
        for key in ("mcp_servers", "container"):
            if asked.get(key):
                raise NotTaken(f"`{key}` is not allowed here")
        system = _text(asked.get("system") or "")
        messages = [Message(role="system", text=system)] if system else []
        for entry in asked["messages"]:
            messages += _messages(entry)
        return str(asked["model"]), Request(
            messages=tuple(messages),
            tools=tuple(_tool(tool) for tool in asked.get("tools") or ()),
            max_tokens=most_tokens(asked.get("max_tokens")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotTaken(f"not a Messages request: {type(error).__name__}") from None


def _text(content: Any) -> str:  # noqa: ANN401 - whatever a stranger sent
    if isinstance(content, str):
        return content
    return "\n\n".join(str(block["text"]) for block in content if _kind(block, "text"))


def _kind(block: Mapping[str, Any], *kinds: str) -> bool:
    if block["type"] not in kinds:
        raise NotTaken(f"content of type {str(block['type'])[:40]!r} is not allowed here")
    return True


def _tool(tool: Mapping[str, Any]) -> ToolSpec:
    if tool.get("type", "custom") != "custom":
        raise NotTaken(f"the provider's own tool {str(tool['type'])[:40]!r} is not allowed here")
    schema = tool["input_schema"]
    return ToolSpec(name=str(tool["name"]), description=str(tool.get("description") or ""), parameters=dict(schema))


def _messages(entry: Mapping[str, Any]) -> Iterator[Message]:
    role, content = entry["role"], entry["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    if role == "assistant":
        yield _assistant(blocks)
        return
    if role not in ("user", "system"):
        raise NotTaken(f"a message of {str(role)[:20]!r}")
    results = tuple(_result(block) for block in blocks if block["type"] == "tool_result")
    if results:
        yield Message(role="tool", results=results)
    rest = [block for block in blocks if block["type"] != "tool_result" and _kind(block, "text", "image")]
    pictures = [_image(block) for block in rest if block["type"] == "image"]
    pictures += [_image(b) for block in blocks if block["type"] == "tool_result" for b in _inner(block) if b["type"] == "image"]
    text = "\n\n".join(str(block["text"]) for block in rest if block["type"] == "text")
    if text or pictures:
        # What the program puts in between as `system` is the program's word, not ours: a user's.
        yield Message(role="user", text=text, images=tuple(pictures))


def _assistant(blocks: Iterable[Mapping[str, Any]]) -> Message:
    native: list[dict[str, Any]] = []
    calls: list[ToolCall] = []
    for block in blocks:
        _kind(block, "text", "tool_use", "thinking", "redacted_thinking")
        kept = {"text": ("text",), "thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}.get(block["type"])
        if kept:
            native.append({"type": block["type"], **{key: str(block[key]) for key in kept}})
        else:
            calls.append(ToolCall(id=str(block["id"]), name=str(block["name"]), args=dict(block["input"])))
            native.append({"type": "tool_use", "id": calls[-1].id, "name": calls[-1].name, "input": dict(block["input"])})
    text = "".join(block["text"] for block in native if block["type"] == "text")
    return Message(role="assistant", text=text, calls=tuple(calls), native=tuple(native))


def _inner(block: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = block.get("content") or ""
    inner = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    return [b for b in inner if _kind(b, "text", "image")]


def _result(block: Mapping[str, Any]) -> ToolResult:
    text = "\n".join(str(b["text"]) for b in _inner(block) if b["type"] == "text")
    return ToolResult(call_id=str(block["tool_use_id"]), text=text, ok=block.get("is_error") is not True)


def _image(block: Mapping[str, Any]) -> Image:
    source = block["source"]
    if source["type"] != "base64":
        raise NotTaken("an image that is not in the request itself")
    return image(source["media_type"], source["data"])


def _event(kind: str, **more: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


def write(reply: Reply, *, model: str) -> bytes:
    """A reply as the events of a stream. Its id is its own: `claude` makes one turn of all replies that have the same."""
    usage = {
        "input_tokens": max(0, reply.usage.input_tokens - reply.usage.cached_tokens - reply.cache_written_tokens),
        "cache_read_input_tokens": reply.usage.cached_tokens,
        "cache_creation_input_tokens": reply.cache_written_tokens,
        "output_tokens": reply.usage.output_tokens,
    }
    head: dict[str, object] = {"id": f"msg_{uuid4().hex}", "type": "message", "role": "assistant", "model": model}
    head |= {"content": [], "stop_reason": None, "usage": usage}
    out = [_event("message_start", message=head)]
    for number, block in enumerate(_content(reply)):
        empty, deltas = _pieces(block)
        out.append(_event("content_block_start", index=number, content_block=empty))
        out += [_event("content_block_delta", index=number, delta=delta) for delta in deltas]
        out.append(_event("content_block_stop", index=number))
    stop = {"end": "end_turn", "tools": "tool_use", "length": "max_tokens", "refusal": "refusal"}[reply.stop]
    out.append(_event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage=usage))
    return b"".join([*out, _event("message_stop")])


def _content(reply: Reply) -> list[dict[str, Any]]:
    if isinstance(reply.native, tuple):
        return [dict(block) for block in reply.native]
    text = [{"type": "text", "text": reply.text}] if reply.text else []
    return [*text, *({"type": "tool_use", "id": c.id, "name": c.name, "input": dict(c.args)} for c in reply.calls)]


def _pieces(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "text":
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        case "tool_use":
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        case "thinking":
            said = {"type": "thinking_delta", "thinking": block["thinking"]}
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {**block, "thinking": "", "signature": ""}, [said, signed]
        case _:
            return block, []


def refused(why: str, *, missing: bool = False) -> tuple[int, bytes]:
    """A refusal of ours, in the provider's words; `missing`: there is no such model or address."""
    status, kind = (404, "not_found_error") if missing else (400, "invalid_request_error")
    return status, json.dumps({"type": "error", "error": {"type": kind, "message": why}}).encode()
