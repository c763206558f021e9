"""What the readers of all protocols share: the refusal, and the few values that mean the same in each. PURE."""

from __future__ import annotations

import base64
from typing import Any

from massgen.messages import MEDIA, Image


class NotTaken(Exception):
    """A request that is refused before anybody is asked. The text is for the program."""


def most_tokens(value: object) -> int | None:
    """A limit of a reply; None: it was none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def image(media_type: Any, data: Any) -> Image:  # noqa: ANN401 - whatever a stranger sent
    """A picture that is in the request itself, as base64. Raises NotTaken, ValueError, TypeError."""
    if media_type not in MEDIA:
        raise NotTaken(f"data of type {str(media_type)[:40]!r} is not allowed here")
    return Image(media_type=media_type, data=base64.b64decode(data, validate=True))
