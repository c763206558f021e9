"""Where on this machine the program is that an agent is to be; nothing of it is run here.

What a container is shown needs nothing beside itself: links are followed to the program. npm's `codex` is a script that looks for
the program in a package for the machine, which is found the same way. Other scripts are refused, because their interpreter and
libraries would have to come along.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from massgen.config.backends import TABLE, BackendType
from massgen.errors import ConfigError

PACKAGES: Final[Mapping[str, str]] = {
    "claude": "npm install -g @anthropic-ai/claude-code",
    "codex": "npm install -g @openai/codex",
}
_MACHINES: Final[Mapping[str, str]] = {"x86_64": "x64", "aarch64": "arm64"}
"""As npm calls them."""


def installed(kind: BackendType, command: str | None, env: Mapping[str, str]) -> Mapping[str, Path]:
    """The program of a backend by its name, found in PATH or where `command` says; empty: it has none. Raises ConfigError."""
    name = TABLE[kind].program
    if not name:
        return {}
    how = f"install it ({PACKAGES[name]}) or name it with `command: /path/to/{name}`"
    found = shutil.which(command or name, path=env.get("PATH", ""))
    if found is None:
        raise ConfigError(f"there is no program {command or name!r} on this machine, which `{kind}` runs in its container; {how}")
    path = Path(found).resolve()
    if name == "codex":
        path = _packaged(path) or path
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            raise ConfigError(f"{path} is a script, and only a program of one file can be shown to a container; {how}")
    return {name: path}


def _packaged(script: Path) -> Path | None:
    """The program that npm's script of `codex` would start: in a package beside the script's own, or below it."""
    package = script.parent.parent
    machine = f"codex-linux-{_MACHINES.get(os.uname().machine, '')}"
    for folder in (package / "node_modules" / "@openai" / machine, package.parent / machine):
        for program in sorted(folder.glob("vendor/*/bin/codex")):
            return program.resolve()
    return None
