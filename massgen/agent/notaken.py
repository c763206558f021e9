"""What no program gets through, whichever protocol it speaks: the refusal, and the pictures that a request may hold."""

from __future__ import annotations

MEDIA = ("image/png", "image/jpeg", "image/gif", "image/webp")


class NotTaken(Exception):
    """A request that is refused before anybody is asked. The text is for the program."""
