"""PURE: what no sandbox may be asked for, whatever the host looks like. Every refusal is a SpecError that says what instead."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from sandbox.errors import SpecError
from sandbox.measures import MAX_BYTES, MAX_DURATION_S
from sandbox.spec import DEFAULT_IMAGE, HOME, MIB, PEERS, WORKSPACE, Limits, Mount

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


_RANGES: Mapping[str, tuple[float, float]] = {
    "memory_bytes": (32 * MIB, MAX_BYTES),
    "cpus": (0.01, 2**20),
    "pids": (8, 2**22),  # PID_MAX_LIMIT: a kernel takes no more
    "open_files": (32, 2**20),  # fs.nr_open, which is more on few machines
    "workspace_bytes": (1, MAX_BYTES),
    "tmp_bytes": (1, MAX_BYTES),
    "inodes": (1, 2**31),  # of 2**64 the kernel makes 0, and of that: no limit
    "output_bytes": (1, MAX_BYTES),
    "command_timeout_s": (0, MAX_DURATION_S),
    "silence_s": (0.1, MAX_DURATION_S),
}
"""Outside of these the engine, the kernel or the guest fails in words of its own, or takes the number for another one."""


def check_limits(limits: Limits) -> None:
    """Every limit is a number, finite, enough for the guest and one command, and one that a kernel knows."""
    for name, (least, most) in _RANGES.items():
        value = getattr(limits, name)
        kind = float | int if name == "cpus" or name.endswith("_s") else int
        if isinstance(value, bool) or not isinstance(value, kind | float) or not 0 < value < math.inf:
            raise SpecError(f"limit {name} is {value!r:.40}; it must be a number above zero (there is no unlimited)")
        if not isinstance(value, kind):
            raise SpecError(f"limit {name} is {value}; it must be a whole number")
        if not least <= value <= most:
            end, word = (least, "needs at least") if value < least else (most, "can have at most")
            told = f"{end / MIB:.15g} MiB" if name.endswith("_bytes") else f"{end:.15g}"
            raise SpecError(f"limit {name} is {value}; a sandbox {word} {told}")


def check_machine(limits: Limits, *, cpus: int, memory_bytes: int) -> None:
    """Raises SpecError for more than the machine has. The defaults are for any machine, also a smaller one."""
    least = Limits()
    if limits.cpus > max(cpus, least.cpus):
        raise SpecError(f"limit cpus is {limits.cpus:g}, and the engine's machine has {cpus} processors; ask for at most that")
    for name in ("memory_bytes", "workspace_bytes", "tmp_bytes"):  # files lie in memory, too
        value = getattr(limits, name)
        if memory_bytes and value > max(memory_bytes, getattr(least, name)):
            have = memory_bytes // MIB
            files = " (with disk)" if limits.memory_covers_files and name == "memory_bytes" else ""
            raise SpecError(f"limit {name}{files} is {value}, and the engine's machine has {have} MiB; ask for at most {have}m")


_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_NAME = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:{_HOST}/)?{_NAME}(?:/{_NAME})*(?::\w[\w.-]{{0,127}})?(?:@[a-zA-Z][a-zA-Z0-9+._-]*:[0-9a-fA-F]{{32,128}})?", re.ASCII
)
"""Of an image, as engines read one."""


def check_image(name: str) -> None:
    """An image's name becomes a part of an address of the engine's API: `../../containers/json` would be another question."""
    if len(name) > 512 or not _REFERENCE.fullmatch(name):
        raise SpecError(f"{name[:80]!r} is no name of an image; write one as `docker images` shows it, such as {DEFAULT_IMAGE}")


def check_target(target: str) -> None:
    """A context path never covers the container's own system, and has a name that an engine can be told."""
    try:
        target.encode()
    except UnicodeEncodeError:
        raise SpecError(f"the name of {target!r} is no text (UTF-8), which engines cannot be told; rename it") from None
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
