"""Who could write to a project: an ear on the engine's own `create` events, independent of everything the product says.

    with Witness(project) as witness:
        ...                                # whatever is under test
    assert [w.labels["massgen.role"] for w in witness.writers()] == ["final"]

Every container that the engine creates meanwhile is inspected at once, before it can be gone.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import docker
import docker.errors
from docker.utils import kwargs_from_env


@dataclass(frozen=True, kw_only=True)
class Created:
    """One container, as the engine describes it."""

    container: str
    labels: dict[str, str]
    host_config: dict[str, Any]
    writable: tuple[str, ...]
    """Sources of its writable binds that lie in (or above) one of the watched paths."""


class Witness:
    """Listens from `with` on; ask `sandboxes` and `writers` during or after the block."""

    def __init__(self, *paths: Path) -> None:
        self._paths = tuple(path.resolve() for path in paths)
        self._client = docker.APIClient(version="auto", timeout=60, **kwargs_from_env())
        self._asking = docker.APIClient(version="auto", timeout=30, **kwargs_from_env())
        self._seen: list[Created] = []
        self._missed: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        self._stream = self._client.events(decode=True, filters={"type": "container", "event": "create"})
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def _listen(self) -> None:
        for event in self._stream:
            try:
                self._seen.append(self._look(str(event["id"])))
            except docker.errors.NotFound:
                self._missed.append(dict(event["Actor"]["Attributes"]))

    def _look(self, container: str) -> Created:
        found = self._asking.inspect_container(container)
        binds = [m for m in found["Mounts"] if m["Type"] == "bind" and m["RW"]]
        binds += [{"Source": b.split(":")[0]} for b in found["HostConfig"].get("Binds") or [] if not b.endswith(":ro")]
        writable = tuple(sorted({b["Source"] for b in binds if self._watched(Path(b["Source"]))}))
        labels = dict(found["Config"].get("Labels") or {})
        return Created(container=container, labels=labels, host_config=found["HostConfig"], writable=writable)

    def _watched(self, source: Path) -> bool:
        return any(source.is_relative_to(path) or path.is_relative_to(source) for path in self._paths)

    def sandboxes(self, run: str) -> tuple[Created, ...]:
        """Every container of one run, in the order of creation (others may use the same engine)."""
        return tuple(c for c in self._seen if c.labels.get("massgen.run") == run)

    def missed(self, run: str) -> int:
        """How many containers of a run were gone before they could be inspected: a test that counts must see none."""
        return sum(labels.get("massgen.run") == run for labels in self._missed)

    def writers(self) -> tuple[Created, ...]:
        """Every container, whoever made it, that could write below a watched path."""
        return tuple(c for c in self._seen if c.writable)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()
        self._thread.join(10)
        self._stream._response.close()
        self._client.close()
        self._asking.close()
