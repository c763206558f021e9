"""What the host looks like, for `plan`: every look without following the last component, nothing written but our own cache.

The cache holds three tiny things that containers mount read-only: the zipped guest, an empty file, and generated
`passwd`/`group` files. All are content-addressed and replaced atomically, so that parallel runs never meet a half one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from mmap import PAGESIZE
from pathlib import Path
from typing import Literal

from sandbox import overlay
from sandbox.drafts import tree
from sandbox.errors import SpecError
from sandbox.overlay import View
from sandbox.plan import HostFacts, PathFacts
from sandbox.spec import AGENT_UID, HOME, Lease, SandboxSpec
from sandbox.zipped import cached, in_cache, zipped

_MAIN = b"""import sys
if sys.version_info < (3, 9):
    sys.stderr.write("python3 in this image is %d.%d; the guest needs 3.9 or newer" % sys.version_info[:2])
    sys.exit(1)
from sandbox.guest.main import main

main()
"""
MAX_GIT_WALK = 500_000


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/massgen`, made when missing. Raises StoreError: it cannot be."""
    folder = _xdg("XDG_CACHE_HOME", ".cache") / "massgen"
    with in_cache(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def own_cache() -> Path:
    """What this package keeps in it, made when missing. Raises StoreError."""
    folder = cache_folder() / "sandbox"
    with in_cache(folder):
        folder.mkdir(exist_ok=True)
    return folder


def state_folder() -> Path:
    """`$XDG_STATE_HOME/massgen`; not made here."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "massgen"


def _xdg(name: str, default: str) -> Path:
    """A relative value is ignored, as the XDG specification asks."""
    value = os.environ.get(name, "")
    return Path(value) if value.startswith("/") else Path.home() / default


def _in_memory(size: int) -> int:
    """What an entry of a copy takes there: whole pages, and about a kilobyte for what the kernel has to know of it."""
    return -(-size // PAGESIZE) * PAGESIZE + 1024


def look(
    spec: SandboxSpec,
    *,
    lease: Lease | None = None,
    image_volumes: tuple[str, ...] = (),
    image_env: tuple[str, ...] = (),
    views: Mapping[str, View] | None = None,
    recursive_ro: bool = False,
) -> HostFacts:
    """Look at everything the spec and the lease name. Raises SpecError for withheld paths that are not relative, StoreError."""
    cache = own_cache()
    withheld = {m.source: m.withhold for m in spec.mounts}
    paths: dict[Path, PathFacts] = {}
    for mount in spec.mounts:
        if mount.mode == "ro":
            paths[mount.source] = _look_at(mount.source, withhold=(*mount.withhold, ".git"))  # a bind cannot show a part of it
        else:
            about = _look_at(mount.source)
            if spec.limits.memory_covers_files and mount.inside not in (views or {}) and about.kind in ("dir", "file"):
                about = replace(about, bytes=sum(_in_memory(found.size) for found in tree(mount.source, mount.withhold)))
            paths[mount.source] = about
    for path in lease.paths if lease else ():
        direct = lease is not None and lease.purpose == "direct"
        paths[path] = _look_at(path, withhold=withheld.get(path, ()) if direct else (), git=True)
    uid, gid = os.getuid(), os.getgid()
    inside = (AGENT_UID, AGENT_UID) if uid == 0 else (uid, gid)
    if lease and lease.paths and paths[lease.paths[0]].kind != "missing":
        inside = (paths[lease.paths[0]].uid, paths[lease.paths[0]].gid)
    return HostFacts(
        uid=uid,
        gid=gid,
        home=Path.home(),
        private=(state_folder(), cache_folder()),
        paths=paths,
        empty_file=cached(cache, "empty", b""),
        guest=guest_zip(cache),
        accounts=_accounts(cache, *inside),
        image_volumes=image_volumes,
        image_env=image_env,
        views=views or {},
        recursive_ro=recursive_ro,
        groups=_groups(lease),
    )


def _look_at(path: Path, *, withhold: tuple[str, ...] = (), git: bool = False) -> PathFacts:
    try:
        about = path.lstat()
    except OSError:
        return PathFacts(kind="missing")
    masks: list[tuple[str, Literal["file", "dir"]]] = []
    for name in withhold:
        relative = name.rstrip("/")
        if relative.startswith("/") or ".." in relative.split("/"):
            raise SpecError(f"{name!r} is not a path below {path}; withheld paths are relative")
        try:
            masks.append(_mask(path, relative))
        except (OSError, ValueError):
            continue  # not there, or a link to what is not shown: nothing to hide
    gits = _git_folders(path) if git and stat.S_ISDIR(about.st_mode) else []
    return PathFacts(
        kind=_kind(path, about.st_mode),
        uid=about.st_uid,
        gid=about.st_gid,
        git_folders=tuple(g for g in gits if not (path / g).is_symlink()),
        git_links=tuple(g for g in gits if (path / g).is_symlink()),
        masks=tuple(masks),
        submounts=overlay.below(path) if stat.S_ISDIR(about.st_mode) else (),
    )


def _kind(path: Path, mode: int) -> Literal["file", "dir", "other"]:
    """What a path itself is; through a link in it somebody's home would pass for a project."""
    if path.resolve() != path:
        return "other"
    return "dir" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def _mask(root: Path, relative: str) -> tuple[str, Literal["file", "dir"]]:
    """What to lay a mask over. Raises OSError when nothing is there, ValueError when a link leaves the root.

    A mask over a link lands on what the link names, and the engine creates that when it is missing: in a writable mount it
    would be a stray file in the user's project.
    """
    place = root / relative
    if place.is_symlink():
        place = place.resolve(strict=True)
        relative = str(place.relative_to(root))
    return relative, "dir" if stat.S_ISDIR(place.lstat().st_mode) else "file"


def _git_folders(root: Path) -> list[str]:
    """Everything called `.git` below a write root: folders of repositories, files of worktrees and submodules."""
    found: list[str] = []
    count = 0
    for base, folders, names in os.walk(root):
        count += len(folders) + len(names)
        if count > MAX_GIT_WALK:
            raise SpecError(f"{root} holds more than {MAX_GIT_WALK} files; name a smaller folder as write path")
        if ".git" in folders or ".git" in names:
            found.append(str((Path(base) / ".git").relative_to(root)))
            if ".git" in folders:
                folders.remove(".git")
    return found


def _groups(lease: Lease | None) -> tuple[int, ...]:
    """As `HostFacts.groups`; none where an agent works under the lease."""
    if lease is None or lease.purpose == "direct":
        return ()
    if os.getuid() != 0:
        return tuple(os.getgroups())
    return tuple({os.lstat(base).st_gid for path in lease.paths for base, _, _ in os.walk(path)})


def guest_zip(cache: Path) -> Path:
    """The guest and the wire codec as one file that python runs."""
    package = Path(__file__).parent
    sources = {"sandbox/__init__.py": b"", "sandbox/wire.py": (package / "wire.py").read_bytes()}
    sources |= {f"sandbox/guest/{p.name}": p.read_bytes() for p in sorted((package / "guest").glob("*.py"))}
    return zipped(cache, "guest", _MAIN, sources)


def _accounts(cache: Path, uid: int, gid: int) -> Path:
    """`passwd` and `group` that know the uid inside, so that programs which ask for a name get one."""
    folder = cache / f"accounts-{uid}-{gid}"
    with in_cache(folder):
        folder.mkdir(exist_ok=True)
    root = "" if uid == 0 else "root:x:0:0:root:/root:/bin/sh\n"
    cached(folder, "passwd", f"{root}agent:x:{uid}:{gid}:agent:{HOME}:/bin/sh\n".encode())
    cached(folder, "group", ("" if gid == 0 else "root:x:0:\n").encode() + f"agent:x:{gid}:\n".encode())
    return folder
