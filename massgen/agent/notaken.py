"""What the readers of all protocols share: a body is parsed within limits here, or refused. PURE.

Whoever connects may say anything. What is parsed is bounded in values and depth, so that nothing that works on it later,
encoders and the reserving of money among it, can be driven out of memory, stack or time.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final, NoReturn

from massgen.messages import MEDIA, Image

MOST_MARKS: Final = 4_000_000
"""Commas and brackets, texts included, before anything is parsed: two bytes of them can become sixty of memory."""
MOST_NODES: Final = 50_000
"""Objects and arrays. A long conversation has a few thousand."""
DEEPEST: Final = 100
MOST_TOKENS: Final = 10_000_000
"""Of a reply; more is none that any model could give, and no figure to calculate with."""


class NotTaken(Exception):
    """A request that is refused before anybody is asked. The text is for the program."""


def parsed(body: bytes) -> dict[str, Any]:
    """A request. Halves of characters, which programs leave when they cut a text, become `?`. Raises NotTaken, ValueError."""
    if sum(body.count(mark) for mark in (b"[", b"{", b",")) > MOST_MARKS:
        raise NotTaken("the body has too many values")
    try:
        asked = json.loads(body.decode(), parse_constant=_no_number)
        if b"\\ud" in body or b"\\uD" in body:  # no provider can be sent one
            asked = json.loads(json.dumps(asked, ensure_ascii=False).encode(errors="replace"))
    except RecursionError:
        raise NotTaken("the body is nested too deeply") from None
    if not isinstance(asked, dict):
        raise NotTaken("the body is no object")
    _bounded(asked)
    return asked


def _no_number(name: str) -> NoReturn:
    raise NotTaken(f"{name} is no number")


def _bounded(asked: dict[str, Any]) -> None:
    nodes: list[Any] = [asked]
    found = 0
    for _ in range(DEEPEST):
        found += len(nodes)
        inner = (node.values() if isinstance(node, dict) else node for node in nodes)
        nodes = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not nodes or found > MOST_NODES:
            break
    if nodes:
        raise NotTaken("the body is nested too deeply, or has too many values")


def most_tokens(value: object) -> int | None:
    """A limit of a reply; None: it was none. Raises NotTaken."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return None
    if value > MOST_TOKENS:
        raise NotTaken("no model says so much")
    return value


def image(media_type: Any, data: Any) -> Image:  # noqa: ANN401 - whatever a stranger sent
    """A picture that is in the request itself, as base64. Raises NotTaken, ValueError, TypeError."""
    if media_type not in MEDIA:
        raise NotTaken(f"data of type {str(media_type)[:40]!r} is not allowed here")
    return Image(media_type=media_type, data=base64.b64decode(data, validate=True))
