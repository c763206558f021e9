"""Where a config is loaded in tests: nothing of this machine reaches it."""

from __future__ import annotations

from pathlib import Path

import pytest

from massgen.config.load import Flags, load
from massgen.config.model import Config
from massgen.errors import ConfigError

ONE = "agents:\n  - id: a\n    backend: {type: chatcompletion, model: m, base_url: 'http://127.0.0.1:1/v1'}\n"
"""An agent, to which a test adds what it is about."""


class World:
    """A home, a project in it, and an environment without anything of this machine."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path / "home"
        self.project = self.home / "project"
        self.project.mkdir(parents=True)
        self.env = {"HOME": str(self.home)}

    def write(self, text: str, name: str = "team.yaml") -> Path:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def load(self, text: str | None = None, **flags: object) -> Config:
        if text is not None:
            flags["config"] = str(self.write(text))
        return load(Flags(**flags), self.env, cwd=self.project)  # type: ignore[arg-type]

    def refuse(self, text: str | None = None, **flags: object) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(text, **flags)
        return str(caught.value)
