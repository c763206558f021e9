"""Docker's images: prepare, list, remove.

Images are prepared in a container that is then committed, not by the engine's builder: what a builder takes in (files,
certificates, variables) stays readable in a layer or in the image's history, it knows no limits, and the newer builder is a
plugin that many machines lack. The container has the capabilities that package managers need and no others, limits, and no
new privileges. The agent images themselves are built by a script, before there is a Python to run this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import docker.errors
import docker.types

from sandbox import owner
from sandbox.engines.base import Link
from sandbox.engines.docker import Client, _call
from sandbox.engines.docker_container import start_attached
from sandbox.engines.images import FOLDER, PREPARED_LABEL, VARIANT_LABEL, ImageRow, Preparing
from sandbox.errors import EngineError, StartFailed

if TYPE_CHECKING:
    from sandbox.engines.docker import DockerEngine

CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETFCAP", "SETGID", "SETUID")
"""What apt, pip and npm need as root; no raw sockets, no devices, no chroot."""
COMMIT_S = 600.0


class DockerImages:
    """The images of one Docker daemon."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        # The two modules are one secret, in two files for their length.
        self._with_client = engine._with_client  # noqa: SLF001
        self._linked = engine._linked  # noqa: SLF001

    async def open(self, preparing: Preparing, *, program: str) -> Link:
        """Create attached, attach, start; like a guest, but as root and with network."""
        facts = await self._engine.facts()
        name = "massgen-prepare-" + os.urandom(8).hex()

        def launch(client: Client) -> tuple[str, Any]:
            host = client.create_host_config(**_host_config(preparing, facts.cpus))
            config = client.create_container_config(
                image=preparing.image,
                command=[],
                entrypoint=["python3", "-I", "-S", "-c", program],
                user="0:0",
                working_dir="/",
                labels={owner.LABEL: owner.me()},
                stdin_open=True,
                detach=False,
                tty=False,
                healthcheck={"test": ["NONE"]},
                stop_signal="SIGKILL",
                hostname="prepare",
                host_config=host,
            )
            return start_attached(client, config, name)

        try:
            return await self._linked(name, launch)
        except EngineError as error:
            raise StartFailed(f"the container to prepare the image in did not start: {error}", op="prepare") from error

    async def keep(self, link: Link, *, tag: str, labels: Mapping[str, str], comment: str) -> None:
        """Commit. The container's own configuration (owner, program) does not go along."""
        repository, _, version = tag.partition(":")

        def commit(client: Client) -> None:
            client.wait(link.container, timeout=30)
            about = client.inspect_container(link.container)
            base = client.inspect_image(about["Image"])["Config"] or {}
            kept = dict(base.get("Labels") or {}) | dict(labels) | {owner.LABEL: ""}
            config = {
                "Env": base.get("Env") or [],
                "Labels": kept,
                "Entrypoint": [],
                "Cmd": base.get("Cmd") or ["python3"],
                "User": "0:0",
                "WorkingDir": base.get("WorkingDir") or "/",
            }
            client.commit(link.container, repository=repository, tag=version, message=comment, pause=False, conf=config)

        await _call(lambda: self._with_client(commit, COMMIT_S))

    async def ours(self) -> tuple[ImageRow, ...]:
        """By label; of untagged layers only those that no image is built on."""

        def rows(client: Client) -> tuple[ImageRow, ...]:
            used = {c["ImageID"] for c in client.containers(all=True)}
            found = {i["Id"]: i for label in (PREPARED_LABEL, VARIANT_LABEL) for i in client.images(filters={"label": label})}
            return tuple(
                ImageRow(
                    id=str(i["Id"]),
                    tags=tuple(sorted(t for t in i.get("RepoTags") or () if t != "<none>:<none>")),
                    size_bytes=int(i["Size"]),
                    created=float(i["Created"]),
                    labels={str(k): str(v) for k, v in (i.get("Labels") or {}).items()},
                    in_use=i["Id"] in used,
                )
                for i in found.values()
            )

        return await _call(lambda: self._with_client(rows))

    async def remove(self, image: str) -> bool:
        """Never by force: what a container uses stays."""

        def remove(client: Client) -> bool:
            try:
                client.remove_image(image)
            except docker.errors.ImageNotFound:
                return True
            except docker.errors.APIError as error:
                if error.status_code == 409:
                    return False
                raise
            return True

        return await _call(lambda: self._with_client(remove, COMMIT_S))


def _host_config(preparing: Preparing, cpus: int) -> dict[str, Any]:
    limits = preparing.limits
    memory = limits.memory_bytes + preparing.folder_bytes
    return {
        "network_mode": preparing.network,
        "cap_drop": ["ALL"],
        "cap_add": list(CAPABILITIES),
        "security_opt": ["no-new-privileges"],
        "ipc_mode": "private",
        "cgroupns": "private",
        "log_config": docker.types.LogConfig(type="none"),
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": int(min(limits.cpus, cpus) * 1e9),
        "pids_limit": limits.pids,
        "init": False,
        "tmpfs": {FOLDER: f"rw,exec,nosuid,nodev,size={preparing.folder_bytes},mode=755"},
    }
