"""LM Studio's own command, `lms`, where it is installed: its server is started, and the model loaded, for as long as a run needs.

What was running or loaded before stays; only what we started is ended. Without the command nothing is tried: whoever runs the
server by hand, or on another machine, needs none of this. Its installer is never run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio

from massgen.config.backends import TABLE
from massgen.config.keys import is_this_machine
from massgen.errors import ConfigError, ModelUnavailable

QUICK_S: Final = 20.0
LOAD_S: Final = 300.0
"""A model of tens of gigabytes comes from a disk."""
PROGRAMS: Final = (".lmstudio/bin/lms", ".cache/lm-studio/bin/lms")
"""Where its installer puts it, below the user's home."""
DEFAULT_URL: Final = TABLE["lmstudio"].url


def find_lms(environment: Mapping[str, str]) -> str | None:
    """The command, on the path or where its installer puts it; None: it is not installed."""
    if found := shutil.which("lms", path=environment.get("PATH")):
        return found
    home = Path(environment.get("HOME", "/nonexistent"))
    return next((str(home / name) for name in PROGRAMS if os.access(home / name, os.X_OK)), None)


@asynccontextmanager
async def served(model: str, base_url: str, lms: str | None) -> AsyncGenerator[None]:
    """The server answers and has the model loaded inside the block, if `lms` is there and the address is this machine's.

    Raises: ConfigError (it has no such model: says which), ModelUnavailable (the command failed or took too long).
    """
    url = base_url or DEFAULT_URL
    if lms is None or not is_this_machine(url):
        yield
        return
    started = await _start(lms, urlsplit(url).port or 1234)
    loaded = False
    try:
        loaded = await _load(lms, model)
        yield
    finally:
        with anyio.move_on_after(2 * QUICK_S, shield=True):
            if loaded:
                await _run(lms, "unload", model)
            if started:
                await _run(lms, "server", "stop")


async def _start(lms: str, port: int) -> bool:
    """Whether it had to be started."""
    status = await _json(lms, "server", "status", "--json")
    if isinstance(status, dict) and status.get("running"):
        return False
    code, said = await _run(lms, "server", "start", "--port", str(port))
    if code != 0:
        raise ModelUnavailable(f"`lms server start` ended with {code}: {said}; start LM Studio by hand, or see its log")
    return True


async def _load(lms: str, model: str) -> bool:
    """Whether it had to be loaded."""
    if any(row.get("identifier") == model or row.get("modelKey") == model for row in _rows(await _json(lms, "ps", "--json"))):
        return False
    known = [str(row.get("modelKey") or row.get("path") or "") for row in _rows(await _json(lms, "ls", "--json"))]
    if model not in known:
        have = ", ".join(known[:10]) or "none"
        raise ConfigError(f"LM Studio has no model {model!r} (it has {have}); `lms get {model}` downloads one")
    code, said = await _run(lms, "load", model, "--yes", "--identifier", model, within_s=LOAD_S)
    if code != 0:
        raise ModelUnavailable(f"`lms load {model}` ended with {code}: {said}")
    return True


def _rows(found: object) -> list[dict[str, object]]:
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


async def _json(lms: str, *words: str) -> object:
    """What the command prints; None when it fails or prints none."""
    code, said = await _run(lms, *words)
    try:
        return json.loads(said) if code == 0 else None
    except ValueError:
        return None


async def _run(lms: str, *words: str, within_s: float = QUICK_S) -> tuple[int, str]:
    """Exit code, and what it printed (of a failure the end). Raises: ModelUnavailable: it took too long."""
    try:
        with anyio.fail_after(within_s):
            done = await anyio.run_process(
                [lms, *words], check=False, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
            )
    except TimeoutError as error:
        raise ModelUnavailable(f"`lms {' '.join(words)}` did not end within {within_s:g} s") from error
    except OSError as error:
        raise ModelUnavailable(f"{lms} cannot be run: {error.strerror}") from error
    said = done.stdout.decode("utf-8", "replace").strip()
    return done.returncode, said if done.returncode == 0 else " ".join(said.split())[-300:]
