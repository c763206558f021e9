"""PURE: what was asked, and what the host looks like, become an ordered list of mounts and limits, or a refusal.

No file is touched here: `facts.py` looked before. This is the one place that decides what a container sees, so it reads as
a table, and only a `Lease` can make it emit a writable bind of the host.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from sandbox.errors import SpecError
from sandbox.spec import AGENT_UID, HOME, PEERS, SEEN_ENV, WORKSPACE, Lease, Limits, Mount, SandboxSpec

GUEST = "/.sandbox/guest.zip"
MAX_MASKS = 200

_RESERVED = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/boot",
    "/.sandbox",
)
_RESERVED_EXACT = ("/", "/var", "/opt", "/home", "/tmp", "/root", WORKSPACE, PEERS, HOME)

MountMode = Literal["ro", "draft", "write"]


@dataclass(frozen=True, kw_only=True)
class PathFacts:
    """What the host says of one path, looked at without following its last component."""

    kind: Literal["file", "dir", "missing", "other"]
    uid: int = 0
    gid: int = 0
    git_folders: tuple[str, ...] = ()
    """Relative paths of everything named `.git` below (only looked for under a lease); links are in `git_links`."""
    git_links: tuple[str, ...] = ()
    masks: tuple[tuple[str, Literal["file", "dir"]], ...] = ()
    """The withheld paths that exist, and what they are."""


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """Everything `plan` needs to know about the machine."""

    uid: int
    gid: int
    home: Path
    private: tuple[Path, ...]
    """Our own folders (state, cache): never shown, never inside what is shown."""
    paths: Mapping[Path, PathFacts]
    empty_file: Path
    """An empty read-only file, to lay over withheld ones."""
    guest: Path
    """The zipped guest."""
    accounts: Path
    """A folder with generated `passwd` and `group` for the uid inside."""
    image_volumes: tuple[str, ...] = ()
    image_env: tuple[str, ...] = ()
    """Names of the variables that the image sets."""


@dataclass(frozen=True, kw_only=True)
class Bind:
    """A path of the host, mounted."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, kw_only=True)
class Tmpfs:
    """Private memory, mounted; never setuid, never a device."""

    target: str
    size_bytes: int
    inodes: int
    mode: int = 0o755
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Fill:
    """What is sent into a draft after the start: `source` on the host, without `withhold`."""

    source: Path
    root: str
    withhold: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One container, decided."""

    image: str
    binds: tuple[Bind, ...]
    tmpfs: tuple[Tmpfs, ...]
    fills: tuple[Fill, ...]
    roots: tuple[str, ...]
    """What a snapshot covers: `/workspace`, the drafts; under a lease the write roots."""
    mounts: tuple[Mapping[str, str], ...]
    """Path and mode as told to the world (label and event)."""
    uid: int
    gid: int
    env: Mapping[str, str]
    cwd: str
    labels: Mapping[str, str]
    limits: Limits
    memory_bytes: int
    """Limit for the engine: what was asked plus every tmpfs, /dev/shm among them, because those count as memory."""
    lease: Lease | None = None
    runtime: str = ""
    unset: tuple[str, ...] = ()
    """Variables of the image that must not reach the guest."""


def plan(spec: SandboxSpec, facts: HostFacts, lease: Lease | None = None) -> Plan:
    """Decide. Raises SpecError: what is refused, why, and what to ask for instead."""
    _check_limits(spec.limits)
    uid, gid = _who(spec, facts, lease)
    leased = set(lease.paths) if lease else set()
    binds: list[Bind] = []
    tmpfs: list[Tmpfs] = []
    fills: list[Fill] = []
    roots: list[str] = [WORKSPACE]
    mounts: list[Mapping[str, str]] = []
    _check_overlap(spec.mounts, leased)

    for mount in spec.mounts:
        if mount.source in leased:
            continue
        about = _facts_of(mount.source, facts)
        _check_source(mount.source, about, facts)
        _check_target(mount.inside)
        if mount.mode == "ro":
            binds.append(Bind(source=str(mount.source), target=mount.inside))
            masks = _masks(mount.inside, about, facts)
            binds += [m for m in masks if isinstance(m, Bind)]
            tmpfs += [m for m in masks if isinstance(m, Tmpfs)]
        else:
            folder = mount.inside if about.kind == "dir" else str(PurePosixPath(mount.inside).parent)
            _check_target(folder)
            _check_inner(folder, mount, spec.mounts)
            tmpfs.append(Tmpfs(target=folder, size_bytes=spec.limits.workspace_bytes, inodes=spec.limits.inodes))
            fills.append(Fill(source=mount.source, root=mount.inside, withhold=mount.withhold))
            roots.append(mount.inside)
        mounts.append({"path": mount.inside, "mode": mount.mode})

    if lease:
        roots = [str(p) for p in lease.paths]
        for path in lease.paths:
            about = _facts_of(path, facts)
            _check_source(path, about, facts)
            _check_target(str(path))
            if lease.purpose == "direct":
                _check_direct(path, about)
            binds += _leased(path, about, lease)
            masks = _masks(str(path), about, facts)
            binds += [m for m in masks if isinstance(m, Bind)]
            tmpfs += [m for m in masks if isinstance(m, Tmpfs)]
            mounts.append({"path": str(path), "mode": "write"})
        if lease.purpose == "direct":
            roots.insert(0, WORKSPACE)

    tmpfs += _own_tmpfs(spec.limits)
    tmpfs += _ancestors(binds, tmpfs)
    tmpfs += [_small(v) for v in facts.image_volumes if not _covered(v, binds, tmpfs)]
    binds += _own_binds(spec, facts)
    return Plan(
        image=spec.image,
        binds=_ordered(binds),
        tmpfs=tuple(_unique(tmpfs)),
        fills=tuple(fills),
        roots=tuple(roots),
        mounts=tuple(mounts),
        uid=uid,
        gid=gid,
        env={**SEEN_ENV, **spec.env},
        cwd=spec.cwd,
        labels={**spec.labels, "massgen.mounts": json.dumps(mounts)},
        limits=spec.limits,
        memory_bytes=spec.limits.memory_bytes + spec.limits.tmp_bytes + sum(t.size_bytes for t in _unique(tmpfs)),
        lease=lease,
        runtime=spec.runtime,
        unset=tuple(sorted(set(facts.image_env) - {*SEEN_ENV, *spec.env})),
    )


def _who(spec: SandboxSpec, facts: HostFacts, lease: Lease | None) -> tuple[int, int]:
    if lease:
        owners = {(facts.paths[p].uid, facts.paths[p].gid) for p in lease.paths if p in facts.paths}
        if len({uid for uid, _ in owners}) != 1:
            raise SpecError(f"the write paths {_names(lease.paths)} belong to different users; run once per owner")
        uid, gid = min(owners)
        if facts.uid not in (0, uid):
            raise SpecError(f"{_names(lease.paths)} belongs to uid {uid}, not to you; run as its owner, or take ownership first")
        return uid, gid
    uid = facts.uid if spec.uid is None else spec.uid
    gid = facts.gid if spec.gid is None else spec.gid
    if uid == 0:
        return AGENT_UID, AGENT_UID
    return uid, gid


def _facts_of(path: Path, facts: HostFacts) -> PathFacts:
    about = facts.paths.get(path)
    if about is None:
        raise SpecError(f"{path} was not looked at before planning")
    return about


def _check_limits(limits: Limits) -> None:
    for name in (
        "memory_bytes",
        "cpus",
        "pids",
        "open_files",
        "workspace_bytes",
        "tmp_bytes",
        "inodes",
        "output_bytes",
        "command_timeout_s",
        "silence_s",
    ):
        if not 0 < getattr(limits, name) < math.inf:
            raise SpecError(f"limit {name} is {getattr(limits, name)}; it must be above zero (there is no unlimited)")
    if limits.memory_bytes < 32 * 1024**2:
        raise SpecError(f"limit memory_bytes is {limits.memory_bytes}; a sandbox needs at least 32 MiB")


def check_machine(limits: Limits, *, cpus: int, memory_bytes: int) -> None:
    """Raises SpecError for more than the machine has. The defaults are for any machine, also a smaller one."""
    least = Limits()
    if limits.cpus > max(cpus, least.cpus):
        raise SpecError(f"limit cpus is {limits.cpus:g}, and the engine's machine has {cpus} processors; ask for at most that")
    if memory_bytes and limits.memory_bytes > max(memory_bytes, least.memory_bytes):
        have = memory_bytes // 1024**2
        raise SpecError(
            f"limit memory_bytes is {limits.memory_bytes}, and the engine's machine has {have} MiB; ask for at most {have}m"
        )


def _check_source(path: Path, about: PathFacts, facts: HostFacts) -> None:
    if not path.is_absolute() or ".." in path.parts or str(path).startswith("//"):
        raise SpecError(f"{path} is not an absolute, resolved path; resolve it first")
    if about.kind == "missing":
        raise SpecError(f"{path} does not exist; create it or take it out of the context paths")
    if about.kind == "other":
        raise SpecError(f"{path} is neither a folder nor a regular file (a socket, a device, a link?); name what it points to")
    if path == Path("/") or facts.home == path or facts.home.is_relative_to(path):
        raise SpecError(f"{path} is your home folder, or holds it; name the project folder instead")
    for own in facts.private:
        if own == path or own.is_relative_to(path) or path.is_relative_to(own):
            raise SpecError(f"{path} overlaps {own}, where runs and their snapshots live; move one of them")


def _check_direct(path: Path, about: PathFacts) -> None:
    """Commands will run over this writable mount: what mounts cannot protect is refused."""
    if about.uid == 0:
        raise SpecError(f"{path} belongs to root, and commands never run as root; use write mode apply")
    if about.git_links:
        link = path / about.git_links[0]
        raise SpecError(f"{link} is a link, which no mount can protect from being replaced; use write mode apply")


def _check_target(target: str) -> None:
    pure = PurePosixPath(target)
    if not pure.is_absolute() or ".." in pure.parts or "\0" in target or str(pure) != target or target.startswith("//"):
        raise SpecError(f"{target} cannot be a path inside a container; give an absolute one")
    if target in _RESERVED_EXACT or any(target == r or target.startswith(r + "/") for r in _RESERVED):
        raise SpecError(f"{target} belongs to the container's own system; mount it elsewhere")
    for own in (WORKSPACE, PEERS, HOME):
        if target.startswith(own + "/"):
            raise SpecError(f"{target} lies in {own}, which every sandbox has for itself; mount it elsewhere")


def _check_overlap(mounts: tuple[Mount, ...], leased: Iterable[Path]) -> None:
    writable = [PurePosixPath(m.inside) for m in mounts if m.mode == "draft" and m.source not in set(leased)]
    writable += [PurePosixPath(p) for p in leased]
    for i, one in enumerate(writable):
        for other in writable[i + 1 :]:
            if one.is_relative_to(other) or other.is_relative_to(one):
                raise SpecError(f"the write paths {one} and {other} overlap; name only the outer one")
    seen: set[str] = set()
    for mount in mounts:
        if mount.inside in seen:
            raise SpecError(f"{mount.inside} is mounted twice; name it once")
        seen.add(mount.inside)


def _check_inner(folder: str, draft: Mount, mounts: tuple[Mount, ...]) -> None:
    """A draft is a copy: what else is mounted at its place would be hidden, what is mounted in it could not be filled."""
    for other in mounts:
        inside = other is not draft and PurePosixPath(other.inside).is_relative_to(draft.inside)
        if inside or (other.mode == "ro" and other.inside == folder):
            raise SpecError(f"{other.inside} and the write path {draft.inside} cover each other; name only one of the two")


def _masks(inside: str, about: PathFacts, facts: HostFacts) -> list[Bind | Tmpfs]:
    """Withheld things under a host bind: the name stays, the content is nowhere."""
    if len(about.masks) > MAX_MASKS:
        raise SpecError(f"{inside} holds {len(about.masks)} withheld paths, more than {MAX_MASKS}; name a smaller folder")
    masks: list[Bind | Tmpfs] = []
    folders = {path for path, kind in about.masks if kind == "dir"}
    for path, kind in about.masks:
        if any(str(above) in folders for above in PurePosixPath(path).parents):
            continue  # its folder is hidden as a whole
        target = f"{inside}/{path}" if path else inside
        if kind == "dir":
            masks.append(Tmpfs(target=target, size_bytes=4096, inodes=1, mode=0o555, read_only=True))
        else:
            masks.append(Bind(source=str(facts.empty_file), target=target))
    return masks


def _leased(path: Path, about: PathFacts, lease: Lease) -> list[Bind]:
    """A write root, and what stays read-only in it.

    A read-only bind inside a writable tree can be bypassed by renaming a folder above it, unless that folder is a mount
    point too: so every folder between the root and a protected path is bound onto itself.
    """
    binds = {str(path): Bind(source=str(path), target=str(path), read_only=False)}
    if any(path.is_relative_to(p) for p in lease.protected):
        raise SpecError(f"{path} is a write path and protected at once; take it out of one of the two")
    inner = [path / g for g in about.git_folders] + [p for p in lease.protected if p.is_relative_to(path) and p != path]
    masked = {path / m for m, _ in about.masks}
    hidden = {path / m for m, kind in about.masks if kind == "dir"}
    for protected in inner:
        if not hidden.isdisjoint(protected.parents):
            continue  # its folder is hidden as a whole; a bind in between would show it again
        for folder in reversed(protected.relative_to(path).parents):
            between = str(path / folder)
            binds.setdefault(between, Bind(source=between, target=between, read_only=False))
        if protected not in masked:
            binds[str(protected)] = Bind(source=str(protected), target=str(protected), read_only=True)
    return list(binds.values())


def _own_tmpfs(limits: Limits) -> list[Tmpfs]:
    return [
        Tmpfs(target=WORKSPACE, size_bytes=limits.workspace_bytes, inodes=limits.inodes),
        Tmpfs(target=HOME, size_bytes=limits.tmp_bytes, inodes=limits.inodes),
        Tmpfs(target="/tmp", size_bytes=limits.tmp_bytes, inodes=limits.inodes, mode=0o1777),
    ]


def _own_binds(spec: SandboxSpec, facts: HostFacts) -> list[Bind]:
    binds = [Bind(source=str(facts.guest), target=GUEST)]
    binds += [Bind(source=str(facts.accounts / name), target=f"/etc/{name}") for name in ("passwd", "group")]
    binds += [Bind(source=str(source), target=target) for target, source in spec.tools.items()]
    if spec.peers is not None:
        binds.append(Bind(source=str(spec.peers), target=PEERS))
    return binds


def _ancestors(binds: list[Bind], tmpfs: list[Tmpfs]) -> list[Tmpfs]:
    """`/root` is closed to others in every image; over it goes an open folder when something below is mounted."""
    below = [b.target for b in binds] + [t.target for t in tmpfs]
    return [_small("/root")] if any(t.startswith("/root/") for t in below) else []


def _small(target: str) -> Tmpfs:
    return Tmpfs(target=target, size_bytes=1024 * 1024, inodes=4096)


def _covered(path: str, binds: list[Bind], tmpfs: list[Tmpfs]) -> bool:
    return path in {b.target for b in binds} | {t.target for t in tmpfs} or path in ("/", "/proc", "/sys", "/dev")


def _unique(tmpfs: list[Tmpfs]) -> list[Tmpfs]:
    return list({t.target: t for t in reversed(tmpfs)}.values())[::-1]


def _ordered(binds: list[Bind]) -> tuple[Bind, ...]:
    """Parents before children; for the same target the last word wins."""
    unique = {b.target: b for b in binds}
    return tuple(sorted(unique.values(), key=lambda b: b.target.count("/")))


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(map(str, paths))
