"""The real programs of other people, installed once into a folder outside the clone."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from sandbox import cache_folder

CLAUDE = "2.1.329"


def claude() -> Path:
    """The program itself, from npm's package for this machine; skips where it cannot be had."""
    folder = Path(os.environ.get("MASSGEN_CLIS", "") or cache_folder() / "clis") / f"claude-{CLAUDE}"
    program = folder / "node_modules" / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            package = f"@anthropic-ai/claude-code-linux-x64@{CLAUDE}"
            argv = ["npm", "install", "--no-audit", "--no-fund", "--force", package]
            try:
                done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
            except FileNotFoundError:
                pytest.skip("npm is not installed, so claude cannot be fetched")
            if done.returncode:
                pytest.skip(f"npm could not fetch {package}: {done.stderr.strip().splitlines()[-1:]}")
    return program
