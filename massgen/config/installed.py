"""Where on this machine the program is that an agent is to be; nothing of it is run here.

Only a program that needs nothing beside itself can be shown to a container as one file: what npm installs as a link is followed,
a script is refused, because its interpreter and libraries would have to come along.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from massgen.config.backends import TABLE, BackendType
from massgen.errors import ConfigError

PACKAGES: Final[Mapping[str, str]] = {"claude": "npm install -g @anthropic-ai/claude-code"}


def installed(kind: BackendType, command: str | None, env: Mapping[str, str]) -> Path | None:
    """The program of a backend, found in PATH or where `command` says; None: the backend has none. Raises ConfigError."""
    name = TABLE[kind].program
    if not name:
        return None
    how = f"install it ({PACKAGES[name]}) or name it with `command: /path/to/{name}`"
    found = shutil.which(command or name, path=env.get("PATH", ""))
    if found is None:
        raise ConfigError(f"there is no program {command or name!r} on this machine, which `{kind}` runs in its container; {how}")
    path = Path(found).resolve()
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            raise ConfigError(f"{path} is a script, and only a program of one file can be shown to a container; {how}")
    return path
