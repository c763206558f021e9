"""No core file of this process: it holds every model key, and a core lies in the project, or in a crash reporter's folder.

Both ways are needed. The limit is inherited by whatever we start, but a handler that the system pipes cores to is not bound by
it; a process that is not dumpable leaves no core whoever would take it, and its memory cannot be read by others of the same user,
but a program that we start is dumpable again. Only the command does this: who uses MassGen from Python decides for their process.
"""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def no_core() -> None:
    """For the rest of this process's life. Where the system knows neither (it is no Linux), what it knows."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
