"""What one action gives back, and the one error that an action may raise."""

from __future__ import annotations

import base64
from typing import Any

KEEP_BYTES = 32 * 1024
"""What a model is shown of one output: half head, half tail."""


class Refused(Exception):
    """An action cannot be done. The text is for the model: what happened, to which thing, what to do next."""


class Result:
    """One finished action.

    `ok` is False when the action could not be done or a command was stopped; a command that ran to its end is ok
    whatever its exit code, because many a code is an answer (grep: 1).
    """

    def __init__(
        self,
        text: str,
        *,
        ok: bool = True,
        exit_code: int | None = None,
        truncated_bytes: int = 0,
        picture: tuple[str, bytes] | None = None,
    ) -> None:
        self.text = text
        self.ok = ok
        self.exit_code = exit_code
        self.truncated_bytes = truncated_bytes
        self.picture = picture

    def line(self, call_id: str) -> dict[str, Any]:
        """As the host reads it."""
        line = {
            "id": call_id,
            "ok": self.ok,
            "text": self.text,
            "exit_code": self.exit_code,
            "truncated_bytes": self.truncated_bytes,
        }
        if self.picture is not None:
            kind, data = self.picture
            line["picture"] = {"media_type": kind, "data": base64.b64encode(data).decode("ascii")}
        return line


class Kept:
    """Output of any length as its head and its tail; memory stays bounded however much arrives."""

    def __init__(self, limit_bytes: int = KEEP_BYTES) -> None:
        self._half = limit_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def add(self, data: bytes) -> None:
        """Take one piece."""
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        extra = len(self._tail) - self._half
        if extra > 0:
            del self._tail[:extra]
            self._dropped += extra

    @property
    def cut_bytes(self) -> int:
        """How much is missing in the middle."""
        return self._dropped

    def text(self) -> str:
        """For the model: undecodable bytes replaced, the cut named."""
        if not self._dropped:
            return bytes(self._head + self._tail).decode("utf-8", "replace")
        gap = f"\n[… {self._dropped} bytes cut here …]\n"
        return self._head.decode("utf-8", "replace") + gap + self._tail.decode("utf-8", "replace")

    def take(self) -> tuple[str, int]:
        """The text so far and its cut, forgetting both."""
        text, cut = self.text(), self._dropped
        self._head.clear()
        self._tail.clear()
        self._dropped = 0
        return text, cut


def text_arg(args: dict[str, Any], name: str, default: str | None = None) -> str:
    """A string argument. Raises: Refused."""
    value = args.get(name, default)
    if not isinstance(value, str):
        msg = f"argument {name!r} must be a string, got {type(value).__name__}. Call again with it."
        raise Refused(msg)
    return value


def int_arg(args: dict[str, Any], name: str, default: int, *, least: int = 0, most: int = 10**12) -> int:
    """A whole number argument within bounds (models send "5" and 5.0 too). Raises: Refused."""
    value = args.get(name)
    if value is None:
        return default
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        msg = f"argument {name!r} must be a whole number, got {value!r}. Call again with it."
        raise Refused(msg) from None
    if not least <= number <= most:
        msg = f"argument {name!r} must be between {least} and {most}, got {number}."
        raise Refused(msg)
    return number


def flag_arg(args: dict[str, Any], name: str, *, default: bool = False) -> bool:
    """A yes or no argument. Raises: Refused."""
    value = args.get(name, default)
    if not isinstance(value, bool):
        msg = f"argument {name!r} must be true or false, got {value!r}. Call again with it."
        raise Refused(msg)
    return value
