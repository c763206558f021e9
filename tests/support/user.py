"""A user at a prompt: a home of their own, a working directory, no keys, the command line as it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BOUND = ("setpriv", "--pdeathsig", "KILL", "--")
"""Before a command: it dies with the thread that started it, so also with a test that is cut off in the middle."""


class User:
    """Runs `massgen` as a process and reads what it left."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cwd = home / "work"
        self.cwd.mkdir(parents=True)
        kept = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and not k.startswith(("MASSGEN_", "XDG_"))}
        weights = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        self.env = {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "XDG_CACHE_HOME": weights}

    def argv(self, *args: str) -> list[str]:
        """The command line."""
        return [*BOUND, sys.executable, "-m", "massgen", *args]

    def massgen(self, *args: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.argv(*args), cwd=self.cwd, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start it, in a process group of its own."""
        return subprocess.Popen(
            self.argv(*args),
            cwd=self.cwd,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def write(self, path: str, value: object) -> Path:
        """A file in the working directory: text as it is, anything else as JSON (which is YAML)."""
        place = self.cwd / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(value if isinstance(value, str) else json.dumps(value))
        return place


def events(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The events of a `--json` run."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def agent(name: str, script: str) -> dict[str, Any]:
    """A scripted agent for a config."""
    return {"id": name, "backend": {"type": "scripted", "script": script}}


def say(**args: object) -> dict[str, Any]:
    """A script entry: shell command, answer, vote or closing words."""
    match args:
        case {"shell": command}:
            return {"when": {"phase": "coordination"}, "calls": [{"name": "shell", "args": {"command": command}}]}
        case {"answer": text}:
            return {"when": {"phase": "coordination"}, "calls": [{"name": "new_answer", "args": {"content": text}}]}
        case {"vote": label}:
            vote = {"name": "vote", "args": {"agent_id": label, "reason": "it holds"}}
            return {"when": {"phase": "coordination", "answers": ">=1"}, "calls": [vote]}
        case {"final": text}:
            return {"when": {"phase": "final"}, "text": text}
        case _:
            raise ValueError(args)


def snapshot_of(folder: Path) -> dict[str, tuple[str, int, bytes]]:
    """Every path below a folder with kind, mode and content: equal before and after means untouched."""
    found: dict[str, tuple[str, int, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        if ".massgen" in path.relative_to(folder).parts:
            continue
        about = path.lstat()
        if path.is_symlink():
            found[str(path.relative_to(folder))] = ("link", 0, str(path.readlink()).encode())
        elif path.is_dir():
            found[str(path.relative_to(folder))] = ("dir", about.st_mode & 0o7777, b"")
        else:
            found[str(path.relative_to(folder))] = ("file", about.st_mode & 0o7777, path.read_bytes())
    return found
