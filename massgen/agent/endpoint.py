"""The host's end of the line to a body: starts it when it is first needed, restarts it once, believes nothing it says.

A body is one process per look: it ends with the look and takes its background jobs with it. Its agent can kill it,
or write to it what it likes; so every line is checked against what was asked, sizes are bounded, and a body that
breaks the protocol counts as dead.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus

from massgen.agent.bodyzip import BODY
from massgen.agent.notaken import NotTaken, image
from massgen.agent.view import Box, Line
from massgen.messages import Image, ToolResult
from sandbox.errors import SandboxError

ARGV = ("python3", "-I", "-S", BODY)

MAX_LINE_BYTES = 48 * 1024 * 1024
"""One `next`: several results of at most 4 MiB of text each, as JSON."""

MAX_TEXT_CHARS = 5 * 1024 * 1024

MAX_PICTURE_CHARS = 4 * 1024 * 1024
"""Of its base64."""

SLACK_S = 30.0
"""What a body may take beyond the deadlines of its commands before it counts as stuck."""

END_S = 5.0
"""How long the end of a body may take (it kills what it started); leaving `spawn` kills it afterwards anyway."""

FAILURES = (
    SandboxError,
    OSError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.BusyResourceError,
    anyio.ClosedResourceError,
)


class BodyLost(Exception):
    """The body died, hung or broke the protocol, twice. The text says which."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """One action for the body."""

    id: str
    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


class Hands(Protocol):
    """Something that acts: the body, or what stands in for it."""

    async def act(self, acts: Sequence[Act]) -> tuple[ToolResult, ...]:
        """Results in the order of the acts. Raises: BodyLost."""
        ...


@asynccontextmanager
async def open_endpoint(
    box: Box, *, cwd: str | None, env: Mapping[str, str] | None = None, command_timeout_s: float = 120.0
) -> AsyncIterator[Endpoint]:
    """The body of one look. Nothing is started before the first act; leaving ends it, also under cancellation, bounded."""
    full = {"MASSGEN_COMMAND_TIMEOUT_S": str(command_timeout_s), **(env or {})}
    async with anyio.create_task_group() as tasks:
        endpoint = Endpoint(_Keeper(box, cwd, full, tasks), command_timeout_s)
        try:
            yield endpoint
        finally:
            endpoint.let_go()


class _Keeper:
    """Holds one spawned body open in a task of its own: a deadline of one act must not enclose what outlives it."""

    def __init__(self, box: Box, cwd: str | None, env: Mapping[str, str], tasks: TaskGroup) -> None:
        self._box = box
        self._cwd = cwd
        self._env = env
        self._tasks = tasks
        self._enough = anyio.Event()

    async def start(self) -> Line:
        """A new body; the one before must have been let go. Raises: BodyLost."""
        self._enough = anyio.Event()
        line = await self._tasks.start(self._keep, self._enough)
        if isinstance(line, Exception):
            message = f"The tools in the container could not be started: {line}"
            raise BodyLost(message) from line
        return cast("Line", line)

    def let_go(self) -> None:
        """End it soon."""
        self._enough.set()

    async def _keep(self, enough: anyio.Event, *, task_status: TaskStatus[object]) -> None:
        started = False
        try:
            async with self._box.spawn(ARGV, cwd=self._cwd, env=self._env) as line:
                started = True
                task_status.started(line)
                try:
                    await enough.wait()
                finally:
                    with anyio.move_on_after(END_S, shield=True):
                        await _end(line)
        except FAILURES as error:
            if not started:
                task_status.started(error)


async def _end(line: Line) -> None:
    try:
        await line.send(b'{"end": {"why": "the turn is over"}}\n')
        await line.wait()
    except FAILURES:
        return  # it is gone already, which is what we want


class Endpoint:
    """A body as something that can be asked to act."""

    def __init__(self, keeper: _Keeper, command_timeout_s: float) -> None:
        self._keeper = keeper
        self._command_timeout_s = command_timeout_s
        self._line: Line | None = None
        self._buffer = bytearray()
        self._last_words = b""
        self._restarts_left = 1
        self._busy = False

    def let_go(self) -> None:
        """End the body soon."""
        self._line = None
        self._keeper.let_go()

    async def act(self, acts: Sequence[Act]) -> tuple[ToolResult, ...]:
        """Do them in order. A body that dies is started again once and told nothing of it.

        The acts of the dead one are not repeated: they may have happened. Raises: BodyLost.
        """
        try:
            return await self._exchange(acts)
        except BodyLost as error:
            self.let_go()
            if not self._restarts_left:
                raise
            self._restarts_left -= 1
            text = f"[{error}. It was started again; background jobs are gone, and this call may or may not have happened.]"
            return tuple(ToolResult(call_id=act.id, text=text, ok=False) for act in acts)

    async def interrupt(self, why: str) -> None:
        """Stop the running command, if there is one."""
        if self._line is not None and self._busy:
            await self._send({"interrupt": why})

    async def _exchange(self, acts: Sequence[Act]) -> tuple[ToolResult, ...]:
        limit = SLACK_S + sum(self._longest(act) for act in acts)
        try:
            with anyio.fail_after(limit):
                if self._line is None:
                    await self._start()
                self._busy = True
                await self._send({"act": [{"id": act.id, "name": act.name, "args": dict(act.args)} for act in acts]})
                return _checked(await self._receive(), acts)
        except TimeoutError:
            message = f"The tools in the container did not answer within {limit:.0f} s"
            raise BodyLost(message) from None
        finally:
            self._busy = False

    def _longest(self, act: Act) -> float:
        wanted = act.args.get("timeout_s") or act.args.get("wait_s") or math.inf
        wanted = wanted if isinstance(wanted, int | float) else math.inf
        return min(wanted, max(self._command_timeout_s, 60.0)) + 5.0

    async def _start(self) -> None:
        self._buffer.clear()
        self._last_words = b""
        self._line = await self._keeper.start()
        if await self._receive() != []:
            message = "The tools in the container did not start as they should"
            raise BodyLost(message)

    async def _send(self, message: Mapping[str, Any]) -> None:
        if self._line is None:
            return
        try:
            await self._line.send(json.dumps(message).encode() + b"\n")
        except FAILURES as error:
            raise BodyLost(self._obituary()) from error

    async def _receive(self) -> list[Any]:
        """The list of the next `next`."""
        at = 0
        while (end := self._buffer.find(b"\n", at)) < 0:
            at = len(self._buffer)
            if at > MAX_LINE_BYTES or self._line is None:
                why = "The tools in the container sent an endless line"
                raise BodyLost(why)
            try:
                stream, data = await self._line.receive()
            except FAILURES as error:
                raise BodyLost(self._obituary()) from error
            if stream == 1:
                self._buffer += data
            else:
                self._last_words = (self._last_words + data)[-2048:]
        text = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message: Any = None
        with suppress(ValueError, RecursionError):
            message = json.loads(text)
        if not isinstance(message, dict) or not isinstance(message.get("next"), list):
            why = "The tools in the container said something outside the protocol"
            raise BodyLost(why)
        return list(message["next"])

    def _obituary(self) -> str:
        words = self._last_words.decode("utf-8", "replace").strip().splitlines()
        return "The tools' process in the container ended" + (f" ({words[-1][:200]})" if words else "")


def _checked(results: list[Any], acts: Sequence[Act]) -> tuple[ToolResult, ...]:
    """Exactly one result for each act, in order, of the right types and sizes. Raises: BodyLost."""
    wrong = BodyLost("The tools in the container answered something else than was asked")
    if len(results) != len(acts):
        raise wrong
    checked: list[ToolResult] = []
    for result, act in zip(results, acts, strict=True):
        if not isinstance(result, dict) or result.get("id") != act.id or not isinstance(result.get("text"), str):
            raise wrong
        code, cut = result.get("exit_code"), result.get("truncated_bytes")
        checked.append(
            ToolResult(
                call_id=act.id,
                text=result["text"][:MAX_TEXT_CHARS],
                ok=result.get("ok") is True,
                exit_code=code if isinstance(code, int) and not isinstance(code, bool) else None,
                truncated_bytes=cut if isinstance(cut, int) and not isinstance(cut, bool) and cut >= 0 else 0,
                images=_pictures(result.get("picture")),
            )
        )
    return tuple(checked)


def _pictures(said: Any) -> tuple[Image, ...]:  # noqa: ANN401 - whatever a container sent
    """One picture as bytes, of a known kind and size; its name of a kind is all that is believed. Raises: BodyLost."""
    if said is None:
        return ()
    kind, data = (said.get("media_type"), said.get("data")) if isinstance(said, dict) else (None, None)
    if isinstance(data, str) and len(data) <= MAX_PICTURE_CHARS:
        with suppress(NotTaken, ValueError):
            return (image(kind, data),)
    message = "The tools in the container showed something that is no picture"
    raise BodyLost(message)
