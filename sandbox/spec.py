"""What a caller may ask of a sandbox: frozen values, units in the names.

Nothing here does anything. `plan.py` turns these into mounts and engine options and refuses what must be
refused; the one value that can make a context path writable is `Lease`, a type of its own, so that no
flag, default or typo elsewhere can.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MIB = 1024 * 1024
GIB = 1024 * MIB

DraftKind = Literal["auto", "copy", "overlay"]
GitView = Literal["hide", "clean", "fresh"]

WORKSPACE = "/workspace"
PEERS = "/peers"
HOME = "/home/agent"

DEFAULT_IMAGE = "massgen-agent:latest"

AGENT_UID = 65532
"""Who agents are when the caller is root: the `nonroot` uid that distroless images use."""

SEEN_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": HOME}
"""The whole environment of a command, before what the spec adds. Nothing is inherited."""


Purpose = Literal["apply", "undo", "direct", "recover"]


@dataclass(frozen=True, kw_only=True)
class Mask:
    """The layer that hides what is withheld of one path, made before any sandbox (`views.masked`) and never changed again."""

    folder: Path
    git: GitView
    """What it shows of the repository; `hide` also where more was asked for and could not be made."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One path of the host that a sandbox shows.

    `ro`: the host's own files, read-only by the mount layer. `draft`: a private writable view, thrown away
    with the container; the host's files cannot change.
    """

    source: Path
    """Absolute, resolved path on the host; a folder or a regular file."""
    mode: Literal["ro", "draft"]
    target: str = ""
    """Absolute path inside; empty means the same as `source`."""
    withhold: tuple[str, ...] = ()
    """Relative paths below `source` whose content is never shown (files or whole folders)."""
    draft: DraftKind = "auto"
    """How a draft is made. `overlay`: the engine lays a private layer over the project (opened in no time, whatever its size);
    refused where that cannot work. `copy`: a copy in memory, which works everywhere. `auto`: overlay where it can work."""
    git: GitView = "hide"
    """What of the repository at the top of `source` is shown: nothing, its `clean` self (no hooks, no credentials in its
    config; what its history holds can be read, withheld or not), or a `fresh` one of a single commit of what is visible. Only
    overlays show one (`repository.committed` gives copies a fresh one); `.git` in `withhold` is overruled. Repositories deeper in
    it are not in a copy, and elsewhere files like others: `withhold` them."""
    mask: Mask | None = None
    """Of `views.masked`, for sandboxes that share it. None: an overlay makes its own from `withhold` and `git`."""

    @property
    def inside(self) -> str:
        """The path inside the container."""
        return self.target or str(self.source)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a sandbox may use at most. Every value is finite: there is no "unlimited"."""

    memory_bytes: int = 4 * GIB
    """Anonymous memory; the sizes of the tmpfs mounts are added to what the engine is told, as they count as memory."""
    memory_covers_files: bool = False
    """True: nothing is added for them; what is written into the sandbox's own folders uses up `memory_bytes` like the rest. Only
    what copy drafts hold before anything begins is added, to the memory and to their sizes (overlays lie on the disk)."""
    cpus: float = 2.0
    pids: int = 512
    open_files: int = 4096
    workspace_bytes: int = GIB
    """Size of `/workspace`, and of each draft."""
    tmp_bytes: int = 256 * MIB
    """Size of `/tmp` and of HOME, each."""
    inodes: int = 200_000
    """Files and folders in each writable mount."""
    output_bytes: int = MIB
    """Kept of each output stream of a command: half head, half tail."""
    command_timeout_s: float = 120.0
    silence_s: float = 60.0
    """The guest ends itself when the host has not sent anything for this long (the host sends heartbeats)."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to write, once, into named paths of the host. Nothing else can make a mount writable.

    Use `Lease.grant`. `Sandbox.open` burns the token: the same lease opens one sandbox, ever.
    """

    token: str
    run_id: str
    agent: str
    snapshot_id: str
    """What may be written: the id of one snapshot (empty for `direct` and `recover`)."""
    purpose: Purpose
    paths: tuple[Path, ...]
    """The write roots, absolute and resolved."""
    protected: tuple[Path, ...] = ()
    """Existing paths below the roots that stay read-only (`.git` always is)."""

    @property
    def stage(self) -> str:
        """The name of its stage folders in the project: tells one lease from another, opens nothing."""
        return hashlib.sha256(self.token.encode()).hexdigest()[:16]

    @staticmethod
    def grant(
        *,
        run_id: str,
        agent: str,
        snapshot_id: str,
        purpose: Purpose,
        paths: tuple[Path, ...],
        protected: tuple[Path, ...] = (),
    ) -> Lease:
        """A lease with a fresh token."""
        return Lease(
            token=secrets.token_hex(16),
            run_id=run_id,
            agent=agent,
            snapshot_id=snapshot_id,
            purpose=purpose,
            paths=paths,
            protected=protected,
        )


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """One container, described."""

    image: str
    mounts: tuple[Mount, ...] = ()
    tools: Mapping[str, Path] = field(default_factory=dict)
    """Read-only program files: absolute path inside → file or folder on the host (the agent body, a CLI binary)."""
    peers: Path | None = None
    """Host folder shown read-only at `/peers`."""
    limits: Limits = field(default_factory=Limits)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = WORKSPACE
    labels: Mapping[str, str] = field(default_factory=dict)
    """Extra engine labels (`massgen.run`, `massgen.agent`, `massgen.role`, …)."""
    runtime: str = ""
    """The engine's name of another runtime (`runsc`); empty: the engine's own choice. Never replaced by another one."""
    uid: int | None = None
    """Who runs inside. None: the caller's uid, or `AGENT_UID` when the caller is root."""
    gid: int | None = None
