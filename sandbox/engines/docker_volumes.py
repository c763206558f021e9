"""Overlay mounts of the local volume driver, and the one container that ever runs as root: it empties a folder.

`volume create` with a name that exists returns the old volume, whatever was asked: names are random and the options are
compared afterwards. AutoRemove leaves named volumes behind, so whoever made them removes them, or the reaper at the next start.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker.errors
import docker.types

from sandbox import owner
from sandbox.errors import StartFailed
from sandbox.plan import GUEST, Plan
from sandbox.plan_views import Volume

Client = Any
"""docker.APIClient: the SDK has no types."""

GONE_S = 10.0
SWEEP_S = 60.0
FOLDER = "/.sandbox/folder"
_SWEEP = f"import sys; sys.path.insert(0, {GUEST!r}); from sandbox.guest.sweep import sweep; sweep({FOLDER!r}, last='owner')"


def create(client: Client, volumes: Sequence[Volume]) -> list[str]:
    """Make them; returns their names, in order. When it raises, none is left."""
    names: list[str] = []
    try:
        for volume in volumes:
            names.append("massgen-" + os.urandom(16).hex())
            options = {"type": "overlay", "device": "overlay", "o": volume.options}
            labels = {owner.LABEL: owner.me()}
            client.create_volume(names[-1], driver="local", driver_opts=options, labels=labels)
            made = client.inspect_volume(names[-1])
            if made.get("Options") != options or made.get("Labels") != labels:
                taken = names.pop()  # somebody else's, and not ours to remove
                raise StartFailed(f"the engine already has a volume {taken} with other options; try again", op="start")
    except BaseException:
        remove(client, names)
        raise
    return names


def mounts(plan: Plan, names: Sequence[str]) -> list[docker.types.Mount]:
    """How a container gets them; nothing of the image is copied into them."""
    return [
        docker.types.Mount(target=volume.target, source=name, type="volume", read_only=volume.read_only, no_copy=True)
        for volume, name in zip(plan.volumes, names, strict=True)
    ]


def remove(client: Client, names: Sequence[str]) -> None:
    """Remove them, waiting a little for a container that is just going. What stays is the reaper's."""
    deadline = time.monotonic() + GONE_S
    for name in names:
        while True:
            try:
                client.remove_volume(name)
            except docker.errors.NotFound:
                break
            except docker.errors.APIError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
                continue
            break


def reap(client: Client) -> None:
    """Volumes of dead owners. Their containers must be gone by now."""
    found = client.volumes(filters={"label": owner.LABEL}).get("Volumes") or []
    for volume in found:
        if not owner.alive((volume.get("Labels") or {}).get(owner.LABEL, "")):
            with contextlib.suppress(docker.errors.APIError):
                client.remove_volume(volume["Name"])


def sweep(client: Client, folder: Path, guest: Path, image: str) -> None:
    """Empty a folder of ours as root: no network, one mount, a fixed program, two capabilities.

    The kernel makes parts of an overlay's layers as root, and only root removes them.
    """
    host = client.create_host_config(
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        cap_add=["DAC_OVERRIDE", "FOWNER"],
        security_opt=["no-new-privileges"],
        ipc_mode="private",
        log_config=docker.types.LogConfig(type="none"),
        mem_limit=256 * 1024**2,
        pids_limit=32,
        mounts=[
            docker.types.Mount(target=FOLDER, source=str(folder), type="bind"),
            docker.types.Mount(target=GUEST, source=str(guest), type="bind", read_only=True),
        ],
    )
    name = "massgen-" + os.urandom(8).hex()
    container = client.create_container(
        image,
        [],
        entrypoint=["python3", "-I", "-S", "-c", _SWEEP],
        user="0:0",
        name=name,
        labels={owner.LABEL: owner.me()},
        healthcheck={"test": ["NONE"]},
        stop_signal="SIGKILL",
        host_config=host,
    )
    try:
        client.start(container)
        client.wait(container, timeout=SWEEP_S)
    finally:
        with contextlib.suppress(docker.errors.APIError):
            client.remove_container(container, force=True, v=True)
