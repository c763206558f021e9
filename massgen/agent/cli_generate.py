"""What `gemini` says and hears, in our own language: PURE, both ways; see `cli_messages.py` for what is dropped and refused.

The parts of a turn, thought signatures among them, go back to the provider as they came. The model is named by the address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from massgen.agent.notaken import NotTaken, image, most_tokens, parsed
from massgen.messages import Message, Reply, Request, ToolCall, ToolResult, ToolSpec

_ADDRESS: Final = re.compile(r"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent)")
_STOPS: Final = {"end": "STOP", "tools": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY"}


def asks(path: str) -> bool:
    """Whether an address is a model's."""
    return _ADDRESS.fullmatch(path) is not None


def read(path: str, body: bytes) -> tuple[str, Request]:
    """The model that is asked for, and the request. Raises NotTaken."""
    found = _ADDRESS.fullmatch(path)
    try:
        asked = parsed(body)
        if found is None:
            raise NotTaken("no address of a model")
        if asked.get("cachedContent"):
            raise NotTaken("`cachedContent` is not allowed here")
        system = "\n\n".join(str(part["text"]) for part in (asked.get("systemInstruction") or {}).get("parts") or ())
        messages = [Message(role="system", text=system)] if system else []
        for content in asked["contents"]:
            messages += _messages(content)
        return found[1], Request(
            messages=tuple(messages),
            tools=tuple(spec for tool in asked.get("tools") or () for spec in _tools(tool)),
            max_tokens=most_tokens((asked.get("generationConfig") or {}).get("maxOutputTokens")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotTaken(f"not a generateContent request: {type(error).__name__}") from None


def _tools(tool: Mapping[str, Any]) -> Iterator[ToolSpec]:
    if others := [key for key in tool if key != "functionDeclarations"]:
        raise NotTaken(f"the provider's own tool {str(others[0])[:40]!r} is not allowed here")
    for declared in tool.get("functionDeclarations") or ():
        parameters = declared.get("parametersJsonSchema") or declared.get("parameters") or {"type": "object", "properties": {}}
        yield ToolSpec(
            name=str(declared["name"]), description=str(declared.get("description") or ""), parameters=dict(parameters)
        )


def _messages(content: Mapping[str, Any]) -> Iterator[Message]:
    parts = [_part(part) for part in content["parts"]]
    if content.get("role") == "model":
        yield _turn(parts)
        return
    if content.get("role", "user") not in ("user", "function"):
        raise NotTaken(f"a message of {str(content['role'])[:20]!r}")
    results = tuple(_result(part["functionResponse"]) for part in parts if "functionResponse" in part)
    if results:
        yield Message(role="tool", results=results)
    inner = [_part(p) for part in parts for p in part.get("functionResponse", {}).get("parts") or ()]
    pictures = (part["inlineData"] for part in (*parts, *inner) if "inlineData" in part)
    images = tuple(image(data["mimeType"], data["data"]) for data in pictures)
    text = "\n\n".join(str(part["text"]) for part in parts if "text" in part)
    if any("functionCall" in part for part in parts):
        raise NotTaken("a call that a user makes")
    if text or images:
        yield Message(role="user", text=text, images=images)


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of one of the few kinds that hold words, pictures, calls or results."""
    kinds = [key for key in part if key not in ("thought", "thoughtSignature")]
    if len(kinds) > 1 or not set(kinds) <= {"text", "inlineData", "functionCall", "functionResponse"}:
        raise NotTaken(f"content of type {str(kinds)[:60]} is not allowed here")
    return part


def _turn(parts: Iterable[Mapping[str, Any]]) -> Message:
    native: list[dict[str, Any]] = []
    calls: list[ToolCall] = []
    for part in parts:
        signed = {"thoughtSignature": str(part["thoughtSignature"])} if part.get("thoughtSignature") else {}
        if "functionCall" in part:
            call = part["functionCall"]
            calls.append(ToolCall(id=str(call["id"]), name=str(call["name"]), args=dict(call.get("args") or {})))
            native.append({"functionCall": {"id": calls[-1].id, "name": calls[-1].name, "args": dict(calls[-1].args)}, **signed})
        elif "text" in part:
            native.append({"text": str(part["text"]), **({"thought": True} if part.get("thought") else {}), **signed})
        elif signed:
            native.append(signed)
        else:
            raise NotTaken("a picture that a model sends")
    text = "".join(part["text"] for part in native if "text" in part and not part.get("thought"))
    return Message(role="assistant", text=text, calls=tuple(calls), native=tuple(native))


def _result(told: Mapping[str, Any]) -> ToolResult:
    response = dict(told["response"])
    key = next((key for key in ("output", "error") if isinstance(response.get(key), str)), "")
    text = str(response[key]) if key else json.dumps(response)
    return ToolResult(call_id=str(told["id"]), text=text, ok="error" not in response)


def write(reply: Reply, *, model: str, stream: bool) -> bytes:
    """A reply, whole, or as the only event of a stream."""
    usage = reply.usage
    parts = [dict(part) for part in reply.native] if isinstance(reply.native, tuple) else [{"text": reply.text}]
    counted = {
        "promptTokenCount": usage.input_tokens,
        "cachedContentTokenCount": usage.cached_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
        "thoughtsTokenCount": usage.reasoning_tokens,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": _STOPS[reply.stop], "index": 0}
    said = json.dumps({"candidates": [candidate], "usageMetadata": counted, "modelVersion": model})
    return f"data: {said}\n\n".encode() if stream else said.encode()


def refused(why: str, *, missing: bool = False) -> tuple[int, bytes]:
    """A refusal of ours, in the provider's words; `missing`: there is no such model or address."""
    code, status = (404, "NOT_FOUND") if missing else (400, "INVALID_ARGUMENT")
    return code, json.dumps({"error": {"code": code, "status": status, "message": why}}).encode()
