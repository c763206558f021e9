"""Where on this machine the program is that an agent is to be; nothing of it is run here.

What a container is shown is whole: links are followed to a program of one file. npm's `codex` is a script that looks for the
program in a package for the machine, which is found the same way; `gemini` is a folder of scripts, shown with the `node` in PATH.
Other scripts are refused, because nobody knows what they need.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Found:
    """A program that could be an agent."""

    kind: BackendType
    """The backend that runs it."""
    path: Path | None
    """None: it cannot be used, and `why` says so."""
    version: str = ""
    """Empty: its files do not say."""
    why: str = ""
    missing: bool = False
    """There is none: `why` is the command that installs it."""


def programs(env: Mapping[str, str]) -> tuple[Found, ...]:
    """All that could be, by what their files say; starting one to ask it takes a second."""
    found: list[Found] = []
    for kind, row in TABLE.items():
        if not row.program:
            continue
        package = PACKAGES[row.program]
        if shutil.which(row.program, path=env.get("PATH", "")) is None:
            found.append(Found(kind=kind, path=None, why=package, missing=True))
            continue
        try:
            path = installed(kind, None, env)[row.program]
            found.append(Found(kind=kind, path=path, version=_version(path, package)))
        except ConfigError as error:
            found.append(Found(kind=kind, path=None, why=str(error)))
    return tuple(found)


def _version(path: Path, package: str) -> str:
    """By the package of npm that a program lies in, or its own name: the maker's installer calls the file by its version."""
    if re.fullmatch(r"\d+\.\d+\.\d+\S*", path.name):
        return path.name
    for folder in (path, *path.parents[:5]):
        try:
            about = json.loads((folder / "package.json").read_bytes())
            if str(about["name"]).startswith(package.rpartition(" ")[2]):
                return str(about["version"]).partition("-linux")[0]
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return ""


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
