"""The real body as a child process, driven line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent.parent


class Body:
    """`python -m massgen.body` over pipes; every answer is awaited with a deadline by the test's own timeout."""

    def __init__(self, cwd: Path, *, env: dict[str, str] | None = None, python: str = sys.executable) -> None:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        self.process = subprocess.Popen(
            [python, "-m", "massgen.body"], cwd=cwd, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.read() == []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)

    def write(self, message: dict[str, Any]) -> None:
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> list[dict[str, Any]]:
        return json.loads(self.process.stdout.readline())["next"]

    def start(self, *acts: tuple[str, dict[str, Any]]) -> None:
        self.write({"act": [{"id": str(n), "name": name, "args": args} for n, (name, args) in enumerate(acts)]})

    def acts(self, *acts: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        self.start(*acts)
        return self.read()

    def act(self, tool: str, /, **args: Any) -> dict[str, Any]:
        return self.acts((tool, args))[0]

    def ok(self, tool: str, /, **args: Any) -> str:
        result = self.act(tool, **args)
        assert result["ok"], result
        return result["text"]

    def refused(self, tool: str, /, **args: Any) -> str:
        result = self.act(tool, **args)
        assert not result["ok"], result
        return result["text"]
