"""Which engine is meant, and where else one may be.

As for the docker command: DOCKER_HOST, else the context that DOCKER_CONTEXT or `docker context use` names, else the usual
socket. It has to be a socket of this machine: a sandbox mounts the guest, read paths and projects by their paths here, and an
engine that is reached through a network (tcp, ssh) sees other files, or none. Refusing beats an error about a missing mount.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sandbox.errors import EngineUnavailable

USUAL = "/var/run/docker.sock"
PODMAN = "Podman's socket"


def address(environment: Mapping[str, str]) -> dict[str, Any]:
    """What the SDK's client is made with. Raises EngineUnavailable: another machine's engine, or a context that is not there."""
    said, by = environment.get("DOCKER_HOST", ""), "DOCKER_HOST"
    if not said:
        said, by = _of_context(environment)
    if not said:
        return {}
    kind, _, path = said.partition("://")
    if kind == "unix" or said.startswith("/"):
        return {"base_url": f"unix://{path or said}"}
    raise EngineUnavailable(
        f"{by} names the engine {said[:200]}, which is reached through a network; a sandbox needs a socket of this machine, "
        f"because it mounts folders of it: run massgen where that engine runs, or set DOCKER_HOST=unix://{USUAL}"
    )


def _of_context(environment: Mapping[str, str]) -> tuple[str, str]:
    """The endpoint of the chosen context and what chose it; two empty strings when none was chosen."""
    folder = Path(environment.get("DOCKER_CONFIG") or Path(environment.get("HOME") or Path.home()) / ".docker")
    name, by = environment.get("DOCKER_CONTEXT", ""), "DOCKER_CONTEXT"
    if not name:
        name, by = str(_read(folder / "config.json").get("currentContext") or ""), f"the current context of {folder}/config.json"
    if name in ("", "default"):
        return "", ""
    about = _read(folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json")
    endpoints = about.get("Endpoints")
    docker = endpoints.get("docker") if isinstance(endpoints, dict) else None
    if not isinstance(docker, dict) or not docker.get("Host"):
        raise EngineUnavailable(f"{by} names the docker context {name[:80]!r}, which is not there; see `docker context ls`")
    return str(docker["Host"]), f"{by} ({name[:80]})"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def others(tried: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """Where else an engine seems to be, as the end of a sentence; empty when nowhere."""
    asked = str(tried.get("base_url") or USUAL).removeprefix("unix://")
    found = [(name, path) for name, path in _sockets(environment) if path.resolve() != Path(asked).resolve()]
    if not found:
        return f" (asked: {asked})"
    there = " and ".join(f"{name} at {path}" for name, path in found)
    usable = [path for name, path in found if name != PODMAN]
    hint = f": export DOCKER_HOST=unix://{usable[0]} to use it" if usable else ", which cannot keep what a sandbox promises"
    return f" (asked: {asked}); there is {there}{hint}"


def _sockets(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Sockets that we may use, at the places where engines put them."""
    run = Path(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    places = [
        ("Docker's socket", Path(USUAL)),
        ("a rootless engine's socket", run / "docker.sock"),
        (PODMAN, run / "podman" / "podman.sock"),
        (PODMAN, Path("/run/podman/podman.sock")),
    ]
    for name, path in places:
        try:
            if stat.S_ISSOCK(path.stat().st_mode) and os.access(path, os.R_OK | os.W_OK):
                yield name, path
        except OSError:
            continue
