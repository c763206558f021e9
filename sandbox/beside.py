"""A thread that works beside the loop, on a disk for instance, while what it works on streams.

Handing over one piece costs either side far less than waiting for a thread each time does, and both are busy at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from queue import SimpleQueue

import anyio
import anyio.to_thread

from sandbox.waiting import unwrapped

ROOM_BYTES = 2 * 1024 * 1024
"""What may wait for the thread."""
CALL_BYTES = 1024
"""What a call takes by itself, about: a file with a hole after each byte is many."""

Call = Callable[[], object]


class Behind:
    """Calls that one thread makes in the order in which they were given, see `behind`."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[int, Call] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._bytes = 0
        self._room: asyncio.Event | None = None
        self._left = False

    async def do(self, count: int, call: Call) -> None:
        """Call it later, when all before is done; `count` bytes are held for it. Waits while too many are.

        When an earlier call has failed, the whole block is on its way out: this one may not be made.
        """
        count += CALL_BYTES
        self._calls.put((count, call))
        with self._lock:
            self._bytes += count
            room = self._room = asyncio.Event() if self._bytes > ROOM_BYTES else None
        if room is not None:
            await room.wait()

    def end(self, *, at_once: bool) -> None:
        """No more calls; `at_once`: nor those that wait."""
        self._left = at_once
        self._calls.put(None)

    def work(self) -> None:
        """On the thread, until the end. Raises what a call raises."""
        while (asked := self._calls.get()) is not None and not self._left:
            count, call = asked
            call()
            with self._lock:
                self._bytes -= count
                room = self._room if self._bytes <= ROOM_BYTES // 2 else None
            if room is not None:
                self._loop.call_soon_threadsafe(room.set)


@asynccontextmanager
async def behind() -> AsyncGenerator[Behind]:
    """Calls that are all made when the block ends, unless it is left by an exception: then the one under way is the last.

    What a call raises ends the block, wherever it waits, and leaves it.
    """
    with unwrapped(first=True):
        async with anyio.create_task_group() as group:
            calls = Behind()
            # A place of its own: it waits for what the loop hands over, and others who wait for a place may be the loop's.
            group.start_soon(partial(anyio.to_thread.run_sync, calls.work, limiter=anyio.CapacityLimiter(1)))
            left = True
            try:
                yield calls
                left = False
            finally:
                calls.end(at_once=left)
