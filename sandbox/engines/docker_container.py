"""What a container of Docker's is made from, and how one is started: attached first, so that no word of it is ever lost.

Whoever starts a container comes by here: guests, and what prepares images.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import docker.types

from sandbox import owner, seccomp
from sandbox.engines.base import EngineFacts
from sandbox.plan import GUEST, Bind, Plan, Tmpfs

Client = Any
"""docker.APIClient: the SDK has no types."""


def start_attached(client: Client, config: dict[str, Any], name: str) -> tuple[str, socket.socket]:
    """Create, attach, start; the container's id and its stream. When it raises, the container may be there, the stream is not."""
    container = str(client.create_container_from_config(config, name)["Id"])
    ours = _attach(client, container)
    try:
        client.start(container)
    except BaseException:
        ours.close()
        raise
    return container, ours


def _attach(client: Client, container: str) -> socket.socket:
    attached = client.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    raw = getattr(attached, "_sock", attached)
    ours = socket.socket(fileno=os.dup(raw.fileno()))
    # The SDK's own descriptor would stay open until the garbage collector comes by; meanwhile epoll still knows the
    # connection under a number that is ours no more, and the event loop spins.
    attached.close()
    raw.close()
    return ours


def config_of(plan: Plan) -> dict[str, Any]:
    """Everything but the host's part."""
    return {
        "image": plan.image,
        "command": [],
        "entrypoint": ["python3", "-I", "-S", GUEST],
        "user": f"{plan.uid}:{plan.gid}",
        # A name without a value takes the image's own variable away: LD_PRELOAD and its like must not reach PID 1.
        "environment": {**dict.fromkeys(plan.unset), **plan.env},
        "working_dir": "/",
        "labels": {**plan.labels, owner.LABEL: owner.me()},
        "stdin_open": True,
        "detach": False,
        "tty": False,
        "healthcheck": {"test": ["NONE"]},
        "stop_signal": "SIGKILL",  # the guest is deaf to every other: whoever stops it, or its engine, would wait in vain
        "hostname": "sandbox",
    }


def host_config_of(plan: Plan, facts: EngineFacts) -> dict[str, Any]:
    """Limits, walls and mounts; volumes of overlays are added by who makes them."""
    limits = plan.limits
    return {
        "network_mode": "none",
        "auto_remove": True,
        "read_only": True,
        "cap_drop": ["ALL"],
        "group_add": [str(group) for group in plan.groups],
        "security_opt": ["no-new-privileges", f"seccomp={seccomp.profile()}"],
        "ipc_mode": "private",
        "cgroupns": "private",
        "log_config": docker.types.LogConfig(type="none"),
        "mem_limit": plan.memory_bytes,
        "memswap_limit": plan.memory_bytes,
        "nano_cpus": int(min(limits.cpus, facts.cpus) * 1e9),
        "pids_limit": limits.pids,
        "shm_size": limits.tmp_bytes,
        "init": False,
        **({"runtime": plan.runtime} if plan.runtime else {}),
        "ulimits": [
            docker.types.Ulimit(name="nofile", soft=limits.open_files, hard=limits.open_files),
            docker.types.Ulimit(name="core", soft=0, hard=0),
            *([docker.types.Ulimit(name="fsize", soft=plan.file_bytes, hard=plan.file_bytes)] if plan.file_bytes else ()),
        ],
        "mounts": [_bind(b) for b in plan.binds],
        "tmpfs": {t.target: _tmpfs(t, plan) for t in plan.tmpfs},
    }


def _bind(bind: Bind) -> docker.types.Mount:
    return docker.types.Mount(target=bind.target, source=bind.source, type="bind", read_only=bind.read_only)


def _tmpfs(mount: Tmpfs, plan: Plan) -> str:
    access = "ro" if mount.read_only else "rw"
    size = f"size={mount.size_bytes},nr_inodes={mount.inodes}"
    return f"{access},exec,nosuid,nodev,{size},mode={mount.mode:o},uid={plan.uid},gid={plan.gid}"
