"""Which coordination calls of a CLI agent count: those that a model made, in the conversation that the host opened.

A program in the container reports calls by MCP, and everything else in there can report them as well. So a report counts only
when a reply that passed here held that very call, arguments included, and each such call counts once. And the reply must
belong to the host's conversation: a message before the model's first word holds the host's prompt, and all that the model is said
to have said in it are words that passed here. What stands between them is the container's: a vote can be induced, as by any tool
result that lies, and not be counterfeited.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from massgen.agent.tools import NEW_ANSWER, VOTE
from massgen.messages import Message, Reply, Request, ToolCall

ADDED = "wait_for_previous"
"""An argument that a program (`gemini`) gives to every tool for itself, and takes out again before it reports the call."""


@dataclass(frozen=True, kw_only=True)
class Witnessed:
    """A reply's coordination calls, under their own names."""

    calls: tuple[ToolCall, ...]


class Witness:
    """What passed of one agent's model in one look."""

    def __init__(self, prompt: str, *, prefix: str) -> None:
        """`prefix`: how the program names the tools of our server."""
        self._prompt = prompt.strip()
        self._prefix = prefix
        self._said: set[str] = set()
        self._open: list[tuple[ToolCall, Witnessed]] = []
        self.last_text = ""
        """Of the last reply that asked for nothing more."""

    def extends(self, request: Request) -> bool:
        """Whether a request goes on from the conversation that the host opened. A call that has its result there is over."""
        opening = itertools.takewhile(lambda message: message.role != "assistant", request.messages)
        if not any(message.role == "user" and self._prompt in message.text for message in opening):
            return False
        spoken = (message for message in request.messages if message.role == "assistant")
        if not all(mark in self._said for message in spoken for mark in _marks(message)):
            return False
        over = {result.call_id for message in request.messages for result in message.results}
        self._open = [(call, witnessed) for call, witnessed in self._open if call.id not in over]
        return True

    def passed(self, reply: Reply) -> None:
        """A reply within the host's conversation."""
        self._said.update(_marks(reply.as_message()))
        # Programs may keep neighbouring texts of a turn as one.
        self._said.add(f"text {reply.text.strip()}")
        own = [call for call in reply.calls if call.name in (self._prefix + NEW_ANSWER, self._prefix + VOTE)]
        bare = tuple(
            ToolCall(id=call.id, name=call.name.removeprefix(self._prefix), args=_asked(call.args), bad_args=call.bad_args)
            for call in own
        )
        witnessed = Witnessed(calls=bare)
        self._open += [(call, witnessed) for call in bare]
        if not reply.calls:
            self.last_text = reply.text

    def claim(self, name: str, args: Mapping[str, Any]) -> Witnessed | None:
        """The reply that made this call, with all its coordination calls, once; None: no reply did."""
        for number, (call, witnessed) in enumerate(self._open):
            if call.name == name and not call.bad_args and _same(call.args, _asked(args)):
                del self._open[number]
                return witnessed
        return None


def _asked(args: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in args.items() if key != ADDED}


def _same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _marks(message: Message) -> Iterator[str]:
    """What identifies each part of an assistant's turn, aloud or thought; what is sealed is its provider's to check."""
    blocks = message.native if isinstance(message.native, tuple) else ()
    texts = [text for block in blocks for text in _texts(block)] if isinstance(message.native, tuple) else [message.text]
    yield from (f"text {text.strip()}" for text in texts if text.strip())
    yield from (f"thought {text.strip()}" for block in blocks for text in _thoughts(block) if text.strip())
    yield from (f"call {call.id} {call.name} {json.dumps(dict(call.args), sort_keys=True)}" for call in message.calls)


def _texts(block: Mapping[str, Any]) -> Iterator[str]:
    """What a part of a turn says aloud, in any of the providers' forms: a text, a message of texts, a part without a type."""
    if block.get("type") == "message":
        content = block["content"]
        yield from (
            [content] if isinstance(content, str) else (str(part.get("text") or part.get("refusal") or "") for part in content)
        )
    elif block.get("type", "text") == "text" and not block.get("thought"):
        yield str(block.get("text") or "")


def _thoughts(block: Mapping[str, Any]) -> Iterator[str]:
    """What a part of a turn says to itself: not every provider signs that, and its model reads it as its own."""
    match block.get("type"):
        case "thinking":
            yield str(block.get("thinking") or "")
        case "reasoning":
            yield from (str(part.get("text") or "") for part in block.get("summary") or ())
        case None if block.get("thought"):
            yield str(block.get("text") or "")
