"""How a command is waited for: fed, heard, and ended when its caller's patience is over or its caller leaves.

The deadline is the guest's to keep; who waits here waits a little longer, and then declares the sandbox lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator

import anyio

from sandbox import wire
from sandbox.channels import Channel, Mux
from sandbox.errors import SandboxLost
from sandbox.process import Kept, Process

GRACE_S = 5.0
"""How much longer than its own deadline the host waits for a command before it declares the sandbox lost."""
KILL_S = 10.0
"""How long a caller who leaves waits for the end of what it leaves."""
AT_ONCE_BYTES = wire.WINDOW // 2

OnOutput = Callable[[int, bytes], Awaitable[None] | None]


async def listened(mux: Mux, channel: Channel, stdout: Kept, stderr: Kept, patience_s: float) -> None:
    """A command that is neither fed nor followed: a timer costs it a twentieth less of its time than a scope to cancel."""
    timer = channel.expire_in(patience_s)
    try:
        await _collect(channel, stdout, stderr, None)
    finally:
        timer.cancel()
        if channel.verdict is None:
            await _abandon(mux, channel, late=channel.expired)


async def talked(
    mux: Mux,
    channel: Channel,
    stdout: Kept,
    stderr: Kept,
    patience: anyio.CancelScope,
    *,
    stdin: bytes | AsyncIterable[bytes],
    on_output: OnOutput | None,
) -> None:
    """A command that is fed, or whose output somebody takes, within a scope that ends when patience does."""
    try:
        if isinstance(stdin, bytes) and len(stdin) <= AT_ONCE_BYTES:  # in the window, so that it never waits for the program
            if stdin:
                await _feed(channel, stdin)
            await _collect(channel, stdout, stderr, on_output)
        else:
            with unwrapped():
                async with anyio.create_task_group() as feeding:
                    feeding.start_soon(_feed, channel, stdin)  # beside the reading: a filter answers while it is fed
                    await _collect(channel, stdout, stderr, on_output)
                    feeding.cancel_scope.cancel()
    finally:
        if channel.verdict is None:
            await _abandon(mux, channel, late=patience.cancel_called)


async def _feed(channel: Channel, stdin: bytes | AsyncIterable[bytes]) -> None:
    with contextlib.suppress(SandboxLost):  # the reading side reports it
        if isinstance(stdin, bytes):
            await channel.send(stdin)
        else:
            async for chunk in stdin:
                await channel.send(chunk)
        await channel.end()


async def _collect(channel: Channel, stdout: Kept, stderr: Kept, on_output: OnOutput | None) -> None:
    """Everything until the command's end."""
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            stream, chunk = await channel.take()
            (stdout if stream == 1 else stderr).add(chunk)
            if on_output is not None and (slow := on_output(stream, bytes(chunk))) is not None:
                await slow


async def _abandon(mux: Mux, channel: Channel, *, late: bool) -> None:
    """The guest owes an end. That it brings more output shows that it lives: then this command alone is ended."""
    if late and not channel.behind:
        await mux.give_up(f"its guest did not end a command within {GRACE_S:.0f} s of its deadline")
    else:
        await give_up(channel)


async def give_up(channel: Channel) -> None:
    """The caller leaves before the program's end: kill it, and wait until that is done."""
    channel.expired = False
    with anyio.move_on_after(KILL_S, shield=True), contextlib.suppress(SandboxLost):
        await channel.reset()
        await Process(channel).wait()


@contextlib.contextmanager
def unwrapped(*, first: bool = False) -> Iterator[None]:
    """Task groups are nobody's business: a single error leaves them as itself, so that `except` finds it.

    Several leave as the group they are, which may be the caller's own; with `first` the first does, the rest as its cause.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        single: BaseException = group
        while isinstance(single, BaseExceptionGroup) and (first or len(single.exceptions) == 1):
            single = single.exceptions[0]
        if single is group:
            raise
        raise single from (single.__cause__ if len(group.exceptions) == 1 else group)
