"""What the kernel's pipes can do beyond reading and writing."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from typing import Callable

PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031
FULL_BYTES = 64 * 1024
"""What a pipe holds that nobody widened."""
LONG_BYTES = 256 * 1024
"""At most so much in one frame."""
SPLICE_F_NONBLOCK = 2


def _splice(source: int, target: int, count: int) -> int:
    """Pages from one descriptor to another, one of which is a pipe, as many as go at once. Raises OSError."""
    return int(os.splice(source, target, count, flags=SPLICE_F_NONBLOCK))  # type: ignore[attr-defined,unused-ignore]


splice: Callable[[int, int, int], int] | None = _splice if hasattr(os, "splice") else None
"""From Python 3.10 on."""


def waiting_bytes(fd: int) -> int:
    """How much a pipe holds."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def widen(fd: int) -> None:
    """Let a pipe hold more, so that fewer turns move the same bytes."""
    try:
        fcntl.fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # no pipe, or beyond the user's pipe budget: slower, not wrong
