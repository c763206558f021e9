"""How long the user is willing to wait: the deadline of the run and a stop that may come at any time.

One value for all phases, so that each wait has the same two ends and somebody can say afterwards which it was.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from typing import Literal, TypeVar

import anyio
import anyio.abc

from sandbox.waiting import unwrapped

T = TypeVar("T")


Over = Literal["time", "stop", "budget"]


class Patience:
    """`deadline` is of anyio's clock; `stop` is set from outside (Ctrl-C), `spent` by whoever counts what the run costs."""

    def __init__(self, *, deadline: float, stop: anyio.Event, spent: anyio.Event | None = None) -> None:
        self.deadline = deadline
        self.stop = stop
        self.spent = spent or anyio.Event()

    @property
    def over(self) -> Over | Literal[""]:
        """Why there is none left; empty: there is."""
        if self.stop.is_set():
            return "stop"
        if self.spent.is_set():
            return "budget"
        return "time" if anyio.current_time() >= self.deadline else ""

    async def ran_out(self) -> Over:
        """Wait until there is none left; says why."""
        with anyio.move_on_at(self.deadline):
            async with anyio.create_task_group() as tasks:
                for event in (self.stop, self.spent):
                    tasks.start_soon(_then, event, tasks.cancel_scope.cancel)
        return self.over or "time"

    async def bounded(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """The result, or None when patience ran out first; the work is cancelled then, and waited for."""
        found: list[T] = []

        async def watch(scope: anyio.CancelScope) -> None:
            await self.ran_out()
            scope.cancel()

        with unwrapped(first=True):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch, tasks.cancel_scope)
                found.append(await work())
                tasks.cancel_scope.cancel()
        return found[0] if found else None


async def _then(event: anyio.Event, act: Callable[[], object]) -> None:
    await event.wait()
    act()


@dataclass(kw_only=True)
class Stopped:
    """What the user's signals said so far."""

    event: anyio.Event
    """Set by the first one."""
    exit_code: int = 130
    """130 after Ctrl-C, 143 after SIGTERM."""


@asynccontextmanager
async def stop_on_signals() -> AsyncIterator[Stopped]:
    """The first Ctrl-C or SIGTERM sets the event, the second cancels the block.

    Only in the main thread, where Python delivers signals; elsewhere nothing is listened to, and the caller cancels.
    """
    stopped = Stopped(event=anyio.Event())
    if current_thread() is not main_thread():
        yield stopped
        return

    async def watch(cancel: Callable[[], None], *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                if stopped.event.is_set():
                    cancel()
                stopped.exit_code = 128 + int(number)
                stopped.event.set()

    with unwrapped(first=True):
        async with anyio.create_task_group() as tasks:
            await tasks.start(watch, tasks.cancel_scope.cancel)
            yield stopped
            tasks.cancel_scope.cancel()
