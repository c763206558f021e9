"""PURE: what was asked, and what the host looks like, become an ordered list of mounts and limits, or a refusal.

No file is touched here: `facts.py` looked before. This is the one place that decides what a container sees, so it reads as
a table, and only a `Lease` can make it emit a writable bind of the host.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from sandbox import plan_views
from sandbox.errors import SpecError
from sandbox.overlay import View
from sandbox.plan_checks import check_hidden, check_inner, check_limits, check_once, check_overlap, check_target
from sandbox.plan_views import Overlay, Volume
from sandbox.spec import AGENT_UID, HOME, PEERS, SEEN_ENV, WORKSPACE, Lease, Limits, Mount, SandboxSpec

GUEST = "/.sandbox/guest.zip"
MAX_MASKS = 200


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
    submounts: tuple[str, ...] = ()
    """What else is mounted below, relative."""
    bytes: int = 0
    """What a copy of it takes; looked at only where that comes on top of a memory limit that covers files."""


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
    recursive_ro: bool = False
    """The engine makes read-only what is mounted below a read-only bind, too; else that is not shown at all."""
    groups: tuple[int, ...] = ()
    """More groups of whoever works under a lease, for files that are to keep theirs: the caller's; where that is root, those of
    the folders of the write roots."""
    views: Mapping[str, View] = field(default_factory=dict)
    """Overlays that were prepared, by path inside; what has none is bound or copied."""


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
    limit_bytes: int
    """Of all its files; the size of the draft."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One container, decided."""

    image: str
    binds: tuple[Bind, ...]
    tmpfs: tuple[Tmpfs, ...]
    fills: tuple[Fill, ...]
    volumes: tuple[Volume, ...]
    overlays: tuple[Overlay, ...]
    """The roots among `roots` that are overlay drafts."""
    roots: tuple[str, ...]
    """What a snapshot covers: `/workspace`, the drafts; under a lease the write roots."""
    mounts: tuple[Mapping[str, str], ...]
    """Path and mode as told to the world (label and event)."""
    uid: int
    gid: int
    groups: tuple[int, ...]
    env: Mapping[str, str]
    cwd: str
    labels: Mapping[str, str]
    limits: Limits
    memory_bytes: int
    """Limit for the engine: what was asked plus every tmpfs, /dev/shm among them, because those count as memory."""
    file_bytes: int = 0
    """How large one file may become; 0: as large as its file system. Overlays lie on a disk that no engine here caps."""
    lease: Lease | None = None
    runtime: str = ""
    unset: tuple[str, ...] = ()
    """Variables of the image that must not reach the guest."""


@dataclass(kw_only=True)
class _Sheet:
    """What has been decided so far, in order."""

    binds: list[Bind] = field(default_factory=list)
    tmpfs: list[Tmpfs] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    roots: list[str] = field(default_factory=lambda: [WORKSPACE])
    mounts: list[Mapping[str, str]] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    overlays: list[Overlay] = field(default_factory=list)

    def targets(self) -> set[str]:
        """Where something is mounted."""
        return {b.target for b in self.binds} | {t.target for t in self.tmpfs} | {v.target for v in self.volumes}

    def hide(self, masks: Iterable[Bind | Tmpfs]) -> None:
        """Lay empty things over what is withheld."""
        for one in masks:
            if isinstance(one, Bind):
                self.binds.append(one)
            else:
                self.tmpfs.append(one)


def plan(spec: SandboxSpec, facts: HostFacts, lease: Lease | None = None) -> Plan:
    """Decide. Raises SpecError: what is refused, why, and what to ask for instead."""
    check_limits(spec.limits)
    uid, gid = _who(spec, facts, lease)
    leased = set(lease.paths) if lease else set()
    sheet = _Sheet()
    check_overlap(spec.mounts, leased)
    for mount in spec.mounts:
        if mount.source not in leased:
            _show(mount, sheet, spec, facts)
    if lease:
        _lend(lease, sheet, facts)
    sheet.tmpfs += _own_tmpfs(spec.limits)
    sheet.tmpfs += _ancestors(sheet)
    sheet.tmpfs += [_small(v) for v in facts.image_volumes if not _covered(v, sheet)]
    sheet.binds += _own_binds(spec, facts)
    binds, tmpfs = _ordered(sheet.binds), tuple(_unique(sheet.tmpfs))
    check_once([*(b.target for b in binds), *(t.target for t in tmpfs)])
    return Plan(
        image=spec.image,
        binds=binds,
        tmpfs=tmpfs,
        fills=tuple(sheet.fills),
        volumes=tuple(sheet.volumes),
        overlays=tuple(sheet.overlays),
        roots=tuple(sheet.roots),
        mounts=tuple(sheet.mounts),
        uid=uid,
        gid=gid,
        groups=facts.groups,
        env={**SEEN_ENV, **spec.env},
        cwd=spec.cwd,
        labels={**spec.labels, "massgen.mounts": json.dumps(sheet.mounts)},
        limits=spec.limits,
        memory_bytes=spec.limits.memory_bytes + _memory_of_files(spec.limits, sheet, facts),
        file_bytes=spec.limits.workspace_bytes if sheet.overlays else 0,
        lease=lease,
        runtime=spec.runtime,
        unset=tuple(sorted(set(facts.image_env) - {*SEEN_ENV, *spec.env})),
    )


def _memory_of_files(limits: Limits, sheet: _Sheet, facts: HostFacts) -> int:
    if limits.memory_covers_files:
        return sum(facts.paths[fill.source].bytes for fill in sheet.fills)
    return limits.tmp_bytes + sum(t.size_bytes for t in _unique(sheet.tmpfs))


def _show(mount: Mount, sheet: _Sheet, spec: SandboxSpec, facts: HostFacts) -> None:
    """One context path: an overlay where one was prepared, else a bind with masks, or a copy."""
    about = _facts_of(mount.source, facts)
    _check_source(mount.source, about, facts)
    check_target(mount.inside)
    check_hidden(mount, [path for path, _ in about.masks], spec.mounts)
    said = {"path": mount.inside, "mode": mount.mode}
    if view := facts.views.get(mount.inside):
        plan_views.check(mount, view, spec.mounts, sheet.views)
        drawn = plan_views.draw(mount, view, len(sheet.overlays))
        sheet.views.append(view)
        sheet.volumes += drawn.volumes
        said["git"] = view.git
        if drawn.overlay:
            check_inner(mount.inside, mount, spec.mounts)
            sheet.binds.append(Bind(source=drawn.upper, target=drawn.overlay.upper))
            sheet.overlays.append(drawn.overlay)
            sheet.roots.append(mount.inside)
            said["draft"] = "overlay"
    elif mount.mode == "ro":
        sheet.binds.append(Bind(source=str(mount.source), target=mount.inside))
        # A draft in there covers the host's files, and has its own list of what it withholds.
        drafts = [m.inside for m in spec.mounts if m.mode == "draft"]
        masks = _masks(mount.inside, about, facts)
        sheet.hide(m for m in masks if not any(PurePosixPath(m.target).is_relative_to(d) for d in drafts))
        if about.submounts and not facts.recursive_ro:
            said["left_out"] = ", ".join(about.submounts)
    else:
        folder = mount.inside if about.kind == "dir" else str(PurePosixPath(mount.inside).parent)
        check_target(folder)
        check_inner(folder, mount, spec.mounts)
        size_bytes = spec.limits.workspace_bytes + about.bytes
        sheet.tmpfs.append(Tmpfs(target=folder, size_bytes=size_bytes, inodes=spec.limits.inodes))
        sheet.fills.append(Fill(source=mount.source, root=mount.inside, withhold=mount.withhold, limit_bytes=size_bytes))
        sheet.roots.append(mount.inside)
        said["draft"] = "copy"
    if about.submounts and "left_out" not in said and (mount.mode == "draft" or view):
        said["left_out"] = ", ".join(about.submounts)
    sheet.mounts.append(said)


def _lend(lease: Lease, sheet: _Sheet, facts: HostFacts) -> None:
    """The write roots: the only writable binds of the host there are."""
    sheet.roots = [str(p) for p in lease.paths]
    for path in lease.paths:
        about = _facts_of(path, facts)
        _check_source(path, about, facts)
        check_target(str(path))
        if lease.purpose == "direct":
            _check_direct(path, about)
        sheet.binds += _leased(path, about, lease)
        sheet.hide(_masks(str(path), about, facts))
        sheet.mounts.append({"path": str(path), "mode": "write"})
    if lease.purpose == "direct":
        sheet.roots.insert(0, WORKSPACE)


def _who(spec: SandboxSpec, facts: HostFacts, lease: Lease | None) -> tuple[int, int]:
    if lease:
        if gone := [p for p in lease.paths if p in facts.paths and facts.paths[p].kind == "missing"]:
            raise SpecError(f"{_names(gone)} does not exist any more; put it back where it was, and try again")
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


def _ancestors(sheet: _Sheet) -> list[Tmpfs]:
    """`/root` is closed to others in every image; over it goes an open folder when something below is mounted."""
    return [_small("/root")] if any(t.startswith("/root/") for t in sheet.targets()) else []


def _small(target: str) -> Tmpfs:
    return Tmpfs(target=target, size_bytes=1024 * 1024, inodes=4096)


def _covered(path: str, sheet: _Sheet) -> bool:
    return path in sheet.targets() | {"/", "/proc", "/sys", "/dev"}


def _unique(tmpfs: list[Tmpfs]) -> list[Tmpfs]:
    return list({t.target: t for t in reversed(tmpfs)}.values())[::-1]


def _ordered(binds: list[Bind]) -> tuple[Bind, ...]:
    """Parents before children; for the same target the last word wins."""
    unique = {b.target: b for b in binds}
    return tuple(sorted(unique.values(), key=lambda b: b.target.count("/")))


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(map(str, paths))
