"""Where on this machine the program is that an agent is to be; nothing of it is run here.

What a container is shown is whole: links are followed to a program of one file. npm's `codex` is a script that looks for the
program in a package for the machine, which is found the same way; `gemini` is a folder of scripts, shown with the `node` in PATH.
Other scripts are refused, because nobody knows what they need.
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
    "gemini": "npm install -g @google/gemini-cli",
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
    if name == "gemini":
        return {name: _folder(path, how), "node": _node(env)}
    if name == "codex":
        path = _packaged(path) or path
    if not _whole(path):
        raise ConfigError(f"{path} is a script, and only a program of one file can be shown to a container; {how}")
    return {name: path}


def _whole(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _folder(script: Path, how: str) -> Path:
    """The package that a script of `gemini` is of: that folder and nothing around it is shown."""
    package = script.parent.parent
    if script != package / "bundle" / "gemini.js" or not (package / "package.json").is_file():
        raise ConfigError(f"{script} is not the `bundle/gemini.js` of a package of npm, which can be shown to a container; {how}")
    return package


def _node(env: Mapping[str, str]) -> Path:
    found = shutil.which("node", path=env.get("PATH", ""))
    path = Path(found).resolve() if found else None
    if path is None or not _whole(path):
        raise ConfigError("`gemini` runs on node, and there is no program `node` in PATH; install Node.js 20 or later")
    return path


def _packaged(script: Path) -> Path | None:
    """The program that npm's script of `codex` would start: in a package beside the script's own, or below it."""
    package = script.parent.parent
    machine = f"codex-linux-{_MACHINES.get(os.uname().machine, '')}"
    for folder in (package / "node_modules" / "@openai" / machine, package.parent / machine):
        for program in sorted(folder.glob("vendor/*/bin/codex")):
            return program.resolve()
    return None
