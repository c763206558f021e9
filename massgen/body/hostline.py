"""The host's side of the conversation: lines on stdin, read without waiting.

An interrupt is taken out as it arrives, whatever else is queued: that is its purpose.
"""

from __future__ import annotations

import json
import os
import select
from typing import Any

MAX_LINE = 64 * 1024 * 1024
"""A longer line is no line of ours."""


class HostLine:
    """Lines as they come; `stop_wanted` says why the running command must stop."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended = False
        self.stop_wanted = ""
        self._buffer = bytearray()
        self._lines: list[tuple[bytes, str]] = []
        os.set_blocking(fd, False)

    def fill(self) -> None:
        """Take what has arrived; never waits."""
        try:
            data = os.read(self.fd, 1024 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(self._buffer) > MAX_LINE:
            self.ended = True
            self.stop_wanted = self.stop_wanted or "the host is gone"
            return
        self._buffer += data
        if b"\n" in data:
            *whole, rest = self._buffer.split(b"\n")
            self._buffer = rest
            for line in whole:
                self._sort(bytes(line))

    def fill_if_ready(self) -> None:
        """Between two actions: see whether the host wants us to stop."""
        if not self.ended and select.select([self.fd], [], [], 0)[0]:
            self.fill()

    def _sort(self, line: bytes) -> None:
        why = ""
        if line.startswith((b'{"interrupt"', b'{"end"')):
            message = parse(line)
            why = str(message.get("interrupt") or "the turn ends")
        if why:
            self.stop_wanted = why
            if self._lines:
                # it concerns the batch that we have not begun yet
                self._lines[-1] = (self._lines[-1][0], why)
        if not line.startswith(b'{"interrupt"'):
            self._lines.append((line, ""))

    def next_line(self) -> bytes | None:
        """The oldest unread line; None when there is none yet. An interrupt that found nothing to stop is forgotten."""
        if not self._lines:
            return None
        line, why = self._lines.pop(0)
        self.stop_wanted = self.stop_wanted if self.ended else why
        return line


def parse(line: bytes) -> dict[str, Any]:
    """A JSON object; empty for anything else."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
