"""PURE: what no sandbox may be asked for, whatever the host looks like. Every refusal is a SpecError that says what instead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from sandbox.errors import SpecError
from sandbox.spec import HOME, MIB, PEERS, WORKSPACE, Limits, Mount

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


_LEAST: Mapping[str, float] = {"memory_bytes": 32 * MIB, "cpus": 0.01, "pids": 8, "open_files": 32}
"""Below these the engine or the guest does not come up, and says so in words of its own."""


def check_limits(limits: Limits) -> None:
    """Every limit is finite, and enough for the guest and one command."""
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
    for name, least in _LEAST.items():
        if getattr(limits, name) < least:
            told = f"{least // MIB} MiB" if name.endswith("_bytes") else f"{least:g}"
            raise SpecError(f"limit {name} is {getattr(limits, name)}; a sandbox needs at least {told}")


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


def check_target(target: str) -> None:
    """A context path never covers the container's own system."""
    pure = PurePosixPath(target)
    if not pure.is_absolute() or ".." in pure.parts or "\0" in target or str(pure) != target or target.startswith("//"):
        raise SpecError(f"{target} cannot be a path inside a container; give an absolute one")
    if target in _RESERVED_EXACT or any(target == r or target.startswith(r + "/") for r in _RESERVED):
        raise SpecError(f"{target} belongs to the container's own system; mount it elsewhere")
    for own in (WORKSPACE, PEERS, HOME):
        if target.startswith(own + "/"):
            raise SpecError(f"{target} lies in {own}, which every sandbox has for itself; mount it elsewhere")


def check_overlap(mounts: tuple[Mount, ...], leased: Iterable[Path]) -> None:
    """No path is writable twice, none mounted twice."""
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


def check_once(targets: Iterable[str]) -> None:
    """Engines mount one thing at one place; but one path may keep what another withholds, `.git` of an inner repository."""
    seen: set[str] = set()
    for target in targets:
        if target in seen:
            raise SpecError(f"{target} is kept by one of the paths and withheld by another; name only one of the two")
        seen.add(target)


def check_inner(folder: str, draft: Mount, mounts: tuple[Mount, ...]) -> None:
    """A draft is a copy: what else is mounted at its place would be hidden, what is mounted in it could not be filled."""
    for other in mounts:
        inside = other is not draft and PurePosixPath(other.inside).is_relative_to(draft.inside)
        if inside or (other.mode == "ro" and other.inside == folder):
            raise SpecError(f"{other.inside} and the write path {draft.inside} cover each other; name only one of the two")


def check_hidden(mount: Mount, withheld: Iterable[str], mounts: tuple[Mount, ...]) -> None:
    """What is withheld there and mounted as a path of its own: one of the two would cover the other, by the order of a list."""
    for hidden in (PurePosixPath(mount.inside, path) for path in withheld):
        for other in mounts:
            if other is not mount and PurePosixPath(other.inside).is_relative_to(hidden):
                raise SpecError(
                    f"{other.inside} is withheld in {mount.inside} and a context path at once; give up one of the two"
                )
