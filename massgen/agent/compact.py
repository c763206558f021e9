"""PURE: a shorter conversation from one that no longer fits its model.

What gives way are results of tools, the oldest first, until half of what was there is gone: a file read an hour ago can be read
again. What stays: everything that was said by people, peers and the model itself, the latest results, and every call with
*some* result, as providers refuse a call without one. A summary written by the model would read better; it would cost a call that
does not fit either, and put words in the record that nobody said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from massgen.messages import Message, ToolResult

KEPT_TURNS: Final = 2
"""The latest messages with results are left alone: the model is working with them."""
WORTH_CHARS: Final = 400
"""What is shorter is not worth a remark in its place."""
SHARE: Final = 0.5
"""How much of the whole text is to go."""
PICTURE_CHARS: Final = 6000
"""What a picture counts as: about what it costs in tokens."""
MARK: Final = "[taken out to make room: "


@dataclass(frozen=True, kw_only=True)
class TakenOut:
    """A shorter conversation, and what it cost."""

    messages: tuple[Message, ...]
    results: int
    chars: int


def compacted(messages: tuple[Message, ...]) -> TakenOut | None:
    """The same with its oldest results replaced by remarks; None when there are none to replace."""
    names = {call.id: call.name for message in messages for call in message.calls}
    goal = int(sum(map(_chars, messages)) * SHARE)
    with_results = [at for at, message in enumerate(messages) if message.results]
    shorter = list(messages)
    results = chars = 0
    for at in with_results[:-KEPT_TURNS]:
        told: list[ToolResult] = []
        for result in messages[at].results:
            size = _size(result)
            if chars < goal and size > WORTH_CHARS and not result.text.startswith(MARK):
                name = names.get(result.call_id, "a tool")
                what = "a picture that" if result.images else f"{size} characters of what"
                remark = f"{MARK}{what} {name} returned; ask again for it]"
                told.append(replace(result, text=remark, images=()))
                results, chars = results + 1, chars + size - len(remark)
            else:
                told.append(result)
        shorter[at] = replace(messages[at], results=tuple(told))
        if chars >= goal:
            break
    return TakenOut(messages=tuple(shorter), results=results, chars=chars) if results else None


def _chars(message: Message) -> int:
    calls: Iterable[int] = (len(str(dict(call.args))) for call in message.calls)
    return len(message.text) + sum(map(_size, message.results)) + sum(calls)


def _size(result: ToolResult) -> int:
    return len(result.text) + PICTURE_CHARS * len(result.images)
