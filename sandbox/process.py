"""Programs inside: a command with an end, or one that is talked to for as long as it lives."""

from __future__ import annotations

from collections import deque
from typing import Any

import anyio

from sandbox.channels import Channel
from sandbox.outcome import Outcome, Output, Reason
from sandbox.wire import Chunk

_REASONS: dict[str, Reason] = {
    reason: reason
    for reason in ("exited", "signalled", "timeout", "idle", "oom", "pids", "disk", "output", "killed", "refused", "engine")
}


class Kept:
    """The head and the tail of a stream in bounded memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._head_limit = (limit_bytes + 1) // 2
        self._tail_limit = limit_bytes // 2
        self._head = bytearray()
        self._tail: deque[Chunk] = deque()
        self._tail_bytes = 0
        self._cut = 0

    def add(self, chunk: Chunk) -> None:
        """More of the stream."""
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        if not chunk:
            return
        self._tail.append(chunk)
        self._tail_bytes += len(chunk)
        while self._tail and self._tail_bytes - len(self._tail[0]) >= self._tail_limit:
            gone = self._tail.popleft()
            self._tail_bytes -= len(gone)
            self._cut += len(gone)

    def output(self) -> Output:
        """What was kept."""
        tail = b"".join(self._tail)
        extra = max(0, len(tail) - self._tail_limit)
        return Output(head=bytes(self._head), tail=tail[extra:], cut_bytes=self._cut + extra)


def outcome_of(verdict: dict[str, Any], stdout: Output = Output(), stderr: Output = Output()) -> Outcome:  # noqa: B008 - frozen
    """The guest's verdict on a command, believed only as far as its types go."""
    code, number = verdict.get("exit_code"), verdict.get("signal")
    return Outcome(
        reason=_REASONS.get(str(verdict.get("reason")), "lost"),
        exit_code=code if isinstance(code, int) else None,
        signal=number if isinstance(number, int) else None,
        why=str(verdict.get("message", ""))[:2000],
        errno=int(_number(verdict.get("errno"))),
        stdout=stdout,
        stderr=stderr,
        wall_s=_number(verdict.get("wall_s")),
        cpu_user_s=_number(verdict.get("cpu_user_s")),
        cpu_sys_s=_number(verdict.get("cpu_sys_s")),
        max_rss_bytes=int(_number(verdict.get("max_rss_bytes"))),
        peak_memory_bytes=int(_number(verdict.get("peak_memory_bytes") or verdict.get("max_rss_bytes"))),
        peak_pids=int(_number(verdict.get("peak_pids"))),
        peak_of="samples" if verdict.get("peak_of") == "samples" else "process",
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 2**63 else 0.0


class Process:
    """A long-lived program in the sandbox. Made by `Sandbox.spawn`, which also ends it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def send(self, data: bytes) -> None:
        """Bytes for its stdin, waiting while it is slow; dropped once it is gone. Raises SandboxLost."""
        await self._channel.send(data)

    async def end_stdin(self) -> None:
        """Close its stdin."""
        await self._channel.end()

    async def receive(self) -> tuple[int, bytes]:
        """The next output: 1 and bytes for stdout, 2 for stderr. Raises anyio.EndOfStream after its end."""
        return await self._channel.receive()

    async def wait(self) -> Outcome:
        """How it ended; output that nobody received is dropped."""
        try:
            while True:
                await self._channel.take()
        except anyio.EndOfStream:
            return self.outcome or Outcome(reason="lost")

    @property
    def verdict(self) -> dict[str, Any]:
        """The guest's own words on its end; empty while it runs."""
        return self._channel.verdict or {}

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, or None while it runs."""
        return None if self._channel.verdict is None else outcome_of(self._channel.verdict)

    async def kill(self) -> None:
        """End it and everything it started; `wait` tells when that is done."""
        await self._channel.reset()
