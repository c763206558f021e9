"""A stand-in for a sandbox that isolates nothing: it runs the real body zip as a process of the host, over pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import Process

from massgen.agent.bodyzip import BODY, build_body_zip


class LocalLine:
    """One body."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def send(self, data: bytes) -> None:
        await self.process.stdin.send(data)

    async def receive(self) -> tuple[int, bytes]:
        return 1, await self.process.stdout.receive()

    async def wait(self) -> int:
        return await self.process.wait()

    async def kill(self) -> None:
        self.process.kill()


class LocalBox:
    """Spawns what it is asked to, with the zip where the container would have it."""

    def __init__(self, cache: Path, cwd: Path) -> None:
        self.zip = build_body_zip(cache)
        self.cwd = cwd
        self.lines: list[LocalLine] = []

    @asynccontextmanager
    async def spawn(
        self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> AsyncIterator[LocalLine]:
        command = [str(self.zip) if item == BODY else sys.executable if item == "python3" else item for item in argv]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": path, "LANG": "C.UTF-8", "HOME": str(self.cwd), **(env or {})}
        process = await anyio.open_process(
            command, cwd=cwd or self.cwd, env=environ, stderr=subprocess.DEVNULL, start_new_session=True
        )
        line = LocalLine(process)
        self.lines.append(line)
        try:
            yield line
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.aclose()
