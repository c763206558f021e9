"""Every container that anybody creates on the engine, inspected from outside before it runs anything."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import docker


class Listener:
    """Inspects every container at its `create` event, before it runs anything."""

    def __init__(self) -> None:
        self._client = docker.from_env()
        self._stream = self._client.events(decode=True, filters={"type": "container", "event": "create"})
        self.created: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        inspector = docker.from_env()
        try:
            for event in self._stream:
                try:
                    self.created.append(inspector.api.inspect_container(event["id"]))
                except docker.errors.NotFound:
                    continue
        finally:
            inspector.close()

    def close(self) -> None:
        """Stop listening."""
        self._stream.close()
        self._thread.join(10)
        self._client.close()

    def of(self, run: str) -> list[dict[str, Any]]:
        """The containers of one run: others work on this engine, too."""
        return [c for c in self.created if c["Config"]["Labels"].get("massgen.run") == run]

    def writers(self, project: Path) -> list[dict[str, Any]]:
        """Containers with a writable bind whose source is the project, lies in it, or holds it."""
        return [c for c in self.created if any(self._writes(m, project) for m in c["Mounts"])]

    @staticmethod
    def _writes(mount: dict[str, Any], project: Path) -> bool:
        source = Path(mount.get("Source") or "/nowhere")
        inside = source.is_relative_to(project) or project.is_relative_to(source)
        return mount["Type"] == "bind" and bool(mount["RW"]) and inside
