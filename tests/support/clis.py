"""The real programs of other people, installed once into a folder outside the clone."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from sandbox import cache_folder

CLAUDE = "2.1.332"
CODEX = "0.169.0"
GEMINI = "0.61.0"


def claude() -> Path:
    """The program itself, from npm's package for this machine; skips where it cannot be had."""
    package = "@anthropic-ai/claude-code-linux-x64"
    return _installed(f"claude-{CLAUDE}", f"{package}@{CLAUDE}", f"{package}/claude")


def codex() -> Path:
    """The script of npm that would start the program; skips where it cannot be had."""
    return _installed(f"codex-{CODEX}", f"@openai/codex@{CODEX}", "@openai/codex/bin/codex.js")


def gemini() -> Path:
    """The script that node runs; skips where it cannot be had."""
    return _installed(f"gemini-{GEMINI}", f"@google/gemini-cli@{GEMINI}", "@google/gemini-cli/bundle/gemini.js")


def _installed(name: str, package: str, program: str) -> Path:
    """A file of a package of npm, installed when it is missing."""
    folder = Path(os.environ.get("MASSGEN_CLIS", "") or cache_folder() / "clis") / name
    found = folder / "node_modules" / program
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.is_file():
            argv = ["npm", "install", "--no-audit", "--no-fund", "--force", package]
            try:
                done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
            except FileNotFoundError:
                pytest.skip(f"npm is not installed, so {package} cannot be fetched")
            if done.returncode:
                pytest.skip(f"npm could not fetch {package}: {done.stderr.strip().splitlines()[-1:]}")
    return found
