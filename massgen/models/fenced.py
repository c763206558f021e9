"""Calls of tools that a small model writes as text: `{"name": …, "arguments": {…}}` in a fence, or between `<tool_call>` tags.

Files of models for coding often come with a template whose own call marker the model does not use: it was trained to put code
into fences, and does so with calls. Taken for a call is only what names a tool that was offered, in a reply without any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from massgen.messages import Reply, ToolCall, ToolSpec

_MARKED: Final = re.compile(r"```(?:json|tool_call)?\s*\n(.*?)```|<tool_call>(.*?)</tool_call>", re.DOTALL)


def with_calls(reply: Reply, tools: Iterable[ToolSpec]) -> Reply:
    """The reply with the calls that its text holds taken out of it; unchanged when there are none."""
    names = {tool.name for tool in tools}
    if reply.calls or not names or reply.stop != "end":
        return reply
    calls: list[ToolCall] = []

    def taken(found: re.Match[str]) -> str:
        call = _call(found.group(1) or found.group(2) or "", names, len(calls) + 1)
        if call is None:
            return found.group(0)
        calls.append(call)
        return ""

    text = _MARKED.sub(taken, reply.text)
    if not calls and (bare := _call(reply.text, names, 1)):
        calls, text = [bare], ""
    return replace(reply, text=text.strip(), calls=tuple(calls), stop="tools") if calls else reply


def _call(text: str, names: set[str], number: int) -> ToolCall | None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("name") not in names:
        return None
    args = said.get("arguments", said.get("parameters", {}))
    return ToolCall(id=f"call_{number}", name=said["name"], args=args) if isinstance(args, dict) else None
