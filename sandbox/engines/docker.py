"""Docker, and whatever speaks its API: the only importer of the docker SDK.

Every call has a deadline and a connection of its own, so that one that hangs cannot hold up another. The container is created
attached (`StdinOnce`) with `AutoRemove`: when this process dies, however it dies, the engine closes the guest's stdin, the
guest exits, and the engine removes the container. Nothing is ever executed in or copied into a running container by
the engine: no exec, no archive API.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import docker
import docker.constants
import docker.errors
import requests.exceptions

from sandbox import owner
from sandbox.engines import docker_address, docker_volumes
from sandbox.engines.base import ALIVE_S, EngineFacts, ImageFacts, Link
from sandbox.engines.docker_container import config_of, host_config_of, start_attached
from sandbox.engines.docker_pieces import Pieces
from sandbox.engines.images import Images
from sandbox.engines.stream import RawStream
from sandbox.errors import EngineError, EngineUnavailable, ImageMissing, StartFailed
from sandbox.facts import guest_zip, own_cache
from sandbox.plan import Plan
from sandbox.plan_checks import check_image

T = TypeVar("T")
Client = Any
"""docker.APIClient: the SDK has no types."""

CALL_S = 30.0
GONE_S = 20.0
TOLD_CHARS = 1000
_RECURSIVE_RO_API = (1, 44)


class DockerEngine:
    """One Docker daemon. Make it with `connect`."""

    def __init__(self, address: dict[str, Any], version: str, *, name: str = "docker") -> None:
        self._address = address
        self._version = version
        self._name = name
        self.api = _numbers(version)
        self._facts: EngineFacts | None = None
        self._volumes: dict[str, list[str]] = {}
        """Of running containers, by the container's name."""
        self._left: set[str] = set()
        """Names of containers that it did not take away when asked: it hung, or was gone."""

    @classmethod
    async def connect(cls, environment: dict[str, str] | None = None) -> DockerEngine:
        """The daemon of `DOCKER_HOST`, of a docker context, or the usual one; on this machine. Raises EngineUnavailable."""
        environment = dict(os.environ) if environment is None else environment
        address = docker_address.address(environment)

        def about() -> dict[str, Any]:
            # Not version="auto": where no engine answers, that raises in the constructor, with a socket that nobody can close.
            client = docker.APIClient(version=docker.constants.DEFAULT_DOCKER_API_VERSION, timeout=CALL_S, **address)
            try:
                found = client.version(api_version=False)
                return found if isinstance(found, dict) else {}
            finally:
                client.close()

        try:
            found = await _call(about)
            theirs = str(found.get("ApiVersion"))
            if not re.fullmatch(r"\d+(\.\d+)*", theirs):
                raise EngineUnavailable(f"what answers at {address.get('base_url') or 'the usual socket'} is no Docker engine")
            version = min(theirs, str(docker.constants.DEFAULT_DOCKER_API_VERSION), key=_numbers)
            parts = [part.get("Name") for part in found.get("Components") or ()]
            return cls(address, version, name="podman" if "Podman Engine" in parts else "docker")
        except EngineUnavailable as error:
            raise EngineUnavailable(f"{error}{docker_address.others(address, environment)}") from error

    def _with_client(self, work: Callable[[Client], T], timeout_s: float = CALL_S) -> T:
        client = docker.APIClient(version=self._version, timeout=timeout_s, **self._address)
        try:
            return work(client)
        finally:
            client.close()

    async def facts(self) -> EngineFacts:
        """What the daemon says of itself (asked once)."""
        if self._facts is None:
            info = await _call(lambda: self._with_client(lambda c: c.info()))
            missing = [name for name in ("MemoryLimit", "PidsLimit", "CpuCfsQuota") if not info.get(name)]
            if not any("seccomp" in str(s) for s in info.get("SecurityOptions") or []):
                missing.append("seccomp")
            self._facts = EngineFacts(
                name=self._name,
                version=str(info.get("ServerVersion", "")),
                api=self._version,
                kernel=str(info.get("KernelVersion", "")),
                cgroups=f"v{info.get('CgroupVersion', '1')}",
                cpus=int(info.get("NCPU") or 1),
                memory_bytes=int(info.get("MemTotal") or 0),
                security=tuple(map(str, info.get("SecurityOptions") or [])),
                id=str(info.get("ID", "")),
                recursive_ro=self.api >= _RECURSIVE_RO_API,
                runtimes=tuple(sorted(info.get("Runtimes") or {})),
                local=str(self._address.get("base_url") or "unix:").startswith(("unix:", "http+unix:")),
                missing=tuple(missing),
            )
        return self._facts

    async def image(self, name: str) -> ImageFacts:
        """Look an image up; never pulls. Raises SpecError for what is no name of one."""
        check_image(name)

        def inspect(client: Client) -> ImageFacts:
            try:
                found = client.inspect_image(name)
            except docker.errors.ImageNotFound as error:
                message = f"image {name} is not on this engine; build ours with `massgen images build`, or docker pull {name}"
                raise ImageMissing(message, op="image") from error
            config = found.get("Config") or {}
            return ImageFacts(
                id=str(found["Id"]),
                volumes=tuple(config.get("Volumes") or ()),
                env=tuple(str(v).partition("=")[0] for v in config.get("Env") or ()),
            )

        return await _call(lambda: self._with_client(inspect))

    def images(self) -> Images:
        """What can be done with its images."""
        from sandbox.engines.docker_images import DockerImages

        return DockerImages(self)

    async def start(self, plan: Plan) -> Link:
        """Create attached, attach, start."""
        facts = await self.facts()
        if facts.name == "podman":
            raise StartFailed(
                "this is Podman, whose API gives a tmpfs neither an owner nor a limit of files and takes no seccomp profile from "
                "its client, so a sandbox would lack what is promised; use Docker (DOCKER_HOST=unix://…, or docker context use)",
                op="start",
            )
        if facts.missing:
            raise StartFailed(
                f"the engine cannot enforce {', '.join(facts.missing)}; fix its cgroup set-up (docker info)", op="start"
            )
        if plan.runtime and plan.runtime not in facts.runtimes:
            raise StartFailed(
                f"the engine has no runtime {plan.runtime} (it has: {', '.join(facts.runtimes) or 'none'}); "
                "name it in the engine's daemon.json and restart the engine, or ask for another",
                op="start",
            )
        name = "massgen-" + os.urandom(8).hex()
        return await self._linked(name, lambda client: self._launch(client, name, plan, facts))

    async def _linked(self, name: str, launch: Callable[[Client], tuple[str, socket.socket]]) -> DockerLink:
        """What was launched, under that name, as a link. When it fails, or is cancelled, no container stays."""
        with anyio.CancelScope(shield=True):  # a thread cannot be cancelled: bounded by CALL_S, then cleaned up
            try:
                container, raw = await _call(lambda: self._with_client(launch))
            except BaseException:
                await self._remove(name)
                raise
        link = DockerLink(self, container, name, raw)
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await link.aclose()
            raise
        return link

    def _launch(self, client: Client, name: str, plan: Plan, facts: EngineFacts) -> tuple[str, socket.socket]:
        try:
            options = host_config_of(plan, facts)
            volumes = self._volumes[name] = docker_volumes.create(client, plan.volumes)
            options["mounts"] += docker_volumes.mounts(plan, volumes)
            config = client.create_container_config(**config_of(plan), host_config=client.create_host_config(**options))
            for mount in config["HostConfig"].get("Mounts") or []:
                if mount["Type"] == "bind":
                    mount["BindOptions"] = self._bind_options(read_only=bool(mount["ReadOnly"]))
            return start_attached(client, config, name)
        except docker.errors.APIError as error:
            raise StartFailed(_explain(str(error.explanation or error), plan.image), op="start") from error

    def _bind_options(self, *, read_only: bool) -> dict[str, Any]:
        """Read-only holds for what is mounted below, too: forced where the engine can, else that is left out of the view."""
        options: dict[str, Any] = {"Propagation": "rprivate"}
        if read_only and self.api >= _RECURSIVE_RO_API:
            options["ReadOnlyForceRecursive"] = True
        else:
            options["NonRecursive"] = True
        return options

    async def _remove(self, name: str) -> None:
        """Force a container away and wait until its name is free. Bounded; what an engine in trouble keeps is left to `reap`."""
        self._left.add(name)

        def remove(client: Client) -> None:
            deadline = time.monotonic() + GONE_S
            while time.monotonic() < deadline:
                try:
                    client.remove_container(name, force=True, v=True)
                except docker.errors.NotFound:
                    docker_volumes.remove(client, self._volumes.pop(name, []))
                    self._left.discard(name)
                    return
                except docker.errors.APIError:
                    time.sleep(0.02)  # "removal is already in progress": the engine's own AutoRemove is at work

        if not await self.alive():
            return
        try:
            await _call(lambda: self._with_client(remove, GONE_S))
        except EngineError:
            return

    async def sweep(self, folder: Path, image: str) -> None:
        """A container of root's for one folder, see `docker_volumes`."""
        guest = guest_zip(own_cache())
        if not await self.alive():
            raise EngineUnavailable("the Docker engine does not answer", op="sweep")
        patience_s = docker_volumes.SWEEP_S + CALL_S
        with anyio.CancelScope(shield=True):
            await _call(lambda: self._with_client(lambda c: docker_volumes.sweep(c, folder, guest, image), patience_s))

    async def alive(self) -> bool:
        """One ping on a connection of its own."""
        try:
            await _call(lambda: self._with_client(lambda c: c.ping(), ALIVE_S), abandon=True)
        except EngineError:
            return False
        return True

    async def reap(self) -> tuple[str, ...]:
        """Containers and volumes of dead owners: created and never started, or orphaned by an engine that was killed.

        And our own that could not be removed when they ended.
        """

        def dead(client: Client) -> list[str]:
            found = client.containers(all=True, filters={"label": owner.LABEL})
            return [c["Id"] for c in found if not owner.alive(c["Labels"].get(owner.LABEL, ""))]

        gone = await _call(lambda: self._with_client(dead))
        for container in (*self._left, *gone):
            await self._remove(container)
        await _call(lambda: self._with_client(docker_volumes.reap))
        return tuple(gone)


class DockerLink:
    """The attach stream of one container: stdout frames demultiplexed from the engine's own framing."""

    def __init__(self, engine: DockerEngine, container: str, name: str, raw: socket.socket) -> None:
        self.container = container
        self._engine = engine
        self._name = name
        self._stream = RawStream(raw)
        self._pieces = Pieces()
        self._closed = False

    def offer(self, data: bytes | memoryview) -> int:
        """Bytes for the guest, as many as fit."""
        return self._stream.offer(data)

    async def send(self, data: bytes | memoryview) -> None:
        """Bytes for the guest."""
        await self._stream.send(data)

    async def pump(self, take: Callable[[bytes | memoryview], None]) -> None:
        """Frames of the guest; its stderr is kept aside."""
        await self._stream.pump(lambda chunk: self._pieces.feed(chunk, take))

    def last_words(self) -> str:
        """The guest's stderr."""
        return self._pieces.words.decode("utf-8", "replace").strip()

    async def let_go(self, patience_s: float) -> float | None:
        """Without a hang-up: the kernel does no more when a process ends."""
        began = time.monotonic()
        self._stream.close()

        def gone(client: Client) -> float | None:
            while time.monotonic() - began < patience_s:
                try:
                    client.inspect_container(self.container)
                except docker.errors.NotFound:
                    return time.monotonic() - began
                time.sleep(0.02)
            return None

        return await _call(lambda: self._engine._with_client(gone))  # noqa: SLF001 - same

    async def aclose(self) -> None:
        """Hang up first: killing while attached and not reading makes the engine's kill hang for a minute."""
        if self._closed:
            return
        self._closed = True
        self._stream.hang_up()
        self._stream.close()
        await self._engine._remove(self._name)  # noqa: SLF001 - the two classes are one module's secret


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


async def _call(work: Callable[[], T], *, abandon: bool = False) -> T:
    """Run a blocking SDK call in a thread and translate what it raises. Bounded by the client's own timeout.

    `abandon`: a cancelled caller does not wait for it, and sees to it that it ends.
    """
    try:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=abandon)
    except docker.errors.APIError as error:
        raise EngineError(f"the engine refused: {_short(error.explanation or error)}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise _unavailable(error) from error


def _unavailable(error: BaseException) -> EngineUnavailable:
    text = str(error)
    if "Permission denied" in text or "PermissionError" in text:
        return EngineUnavailable(
            "no permission on the Docker socket; use sudo, or join its group (sudo usermod -aG docker $USER) and log in again"
        )
    if "Read timed out" in text:
        return EngineUnavailable(f"the Docker engine did not answer within {CALL_S:.0f} s; look at its log, or restart it")
    return EngineUnavailable(
        "no Docker engine answers; start it (sudo systemctl start docker), or run scripts/bootstrap to install one"
    )


def _explain(text: str, image: str) -> str:
    if re.search(r"python3.*(not found|no such file)", text, re.IGNORECASE):
        return f"image {image} has no python3; any image with python3 3.9 or newer works (massgen's own: `massgen images build`)"
    return f"the engine could not start a container of {image}: {_short(text)}"


def _short(told: object) -> str:
    """What an engine says, or whatever answers in its place, on a line that can be read: its head and its end."""
    text = " ".join(str(told).split())
    return text if len(text) <= TOLD_CHARS else f"{text[: TOLD_CHARS // 2]} … {text[-TOLD_CHARS // 2 :]}"
