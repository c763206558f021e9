"""Which paths of the user may be shown to agents at all, and where massgen keeps its own things.

Refused here, before anything starts, because no later check could make them right: the home folder, `/` and
what lies between; the system's folders; `.git` and `.massgen` themselves; massgen's state; sockets and
devices. The sandbox refuses its own list once more (`sandbox/plan.py`): that one is about mounts, this one
is about what a user can possibly have meant.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from massgen.config.model import ContextPath, Permission, PrepareFile
from massgen.errors import ConfigError

_SYSTEM = "bin boot dev etc lib lib32 lib64 libx32 proc run sbin sys usr var/run var/lib/docker"
_INSIDE = "workspace peers opt/massgen"
"""Places that exist in every container and mean something there."""
_RESERVED = tuple(Path("/") / name for name in f"{_SYSTEM} {_INSIDE}".split())
_SOURCES = (Path("/usr/src"), Path("/usr/local/src"))
_NEVER_WHOLE = frozenset(Path("/") / name for name in ("tmp", "var", "var/tmp", "home", "opt", "root", "mnt", "media", "srv"))


@dataclass(frozen=True, kw_only=True)
class Places:
    """The folders that the environment names."""

    cwd: Path
    home: Path
    state: Path
    """Event logs, snapshots, preimages."""
    cache: Path
    """Model files, the zipped guest and body."""
    user_config: Path
    """The user's own `config.yaml` and `.env`."""

    @staticmethod
    def find(env: Mapping[str, str], *, cwd: Path | None = None) -> Places:
        """From HOME and the XDG variables (a relative one is ignored, as the XDG specification asks).

        Raises ConfigError: as `here`.
        """
        home = Path(env["HOME"]) if env.get("HOME", "").startswith("/") else Path.home()
        return Places(
            cwd=cwd or here(),
            home=home,
            state=_xdg(env, "XDG_STATE_HOME", home / ".local/state") / "massgen",
            cache=_xdg(env, "XDG_CACHE_HOME", home / ".cache") / "massgen",
            user_config=_xdg(env, "XDG_CONFIG_HOME", home / ".config") / "massgen",
        )


def here() -> Path:
    """The working directory. Raises ConfigError: it was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise ConfigError("the folder you stand in is no longer there; cd to another one") from error


def _xdg(env: Mapping[str, str], name: str, default: Path) -> Path:
    value = env.get(name, "")
    return Path(value) if value.startswith("/") else default


def context_path(typed: str, permission: Permission, protected: Sequence[str], places: Places) -> ContextPath:
    """The checked path. Relative ones start at the working directory. Raises ConfigError: what, which, what next."""
    _speakable(typed)
    expanded = places.home / typed[2:] if typed.startswith("~/") else places.home if typed == "~" else Path(typed)
    try:
        path = (places.cwd / expanded).resolve(strict=True)
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise ConfigError(f"context path {typed!r} does not exist (looked in {places.cwd}); create it or correct it") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "unusable path"
        raise ConfigError(f"context path {typed!r} cannot be used: {reason}") from error
    _speakable(str(path))
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise ConfigError(f"context path {typed!r} is a socket, pipe or device; only files and folders can be shown")
    reason = refusal(path, places)
    if reason:
        raise ConfigError(f"context path {typed!r} is refused: {reason}")
    return ContextPath(
        path=path, permission=permission, typed=typed, protected_paths=tuple(_protected(path, p) for p in protected)
    )


def prepare_file(typed: str, places: Places) -> PrepareFile:
    """A file for `sandbox.prepare`. Relative ones start at the working directory. Raises ConfigError: what, which, what next."""
    _speakable(typed)
    whole = Path(os.path.normpath(places.cwd / (places.home / typed[2:] if typed.startswith("~/") else Path(typed))))
    try:
        path = whole.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "unusable path"
        raise ConfigError(f"prepare file {typed!r} cannot be used: {reason} (looked in {places.cwd})") from error
    if not path.is_file():
        raise ConfigError(f"prepare file {typed!r} is not a regular file; name each file")
    inside = whole.is_relative_to(places.cwd)
    # A link inside a project may have been put there by somebody else, to have a file of yours baked into an image.
    if inside and not path.is_relative_to(places.cwd.resolve()):
        raise ConfigError(f"prepare file {typed!r} leads out of {places.cwd}; name the file that you mean")
    return PrepareFile(name=str(whole.relative_to(places.cwd)) if inside else path.name, path=path)


def refusal(path: Path, places: Places) -> str:
    """Why this resolved path may not be shown to agents, with what to do instead; empty when it may."""
    home = _resolved(places.home)
    ours = [_resolved(p) for p in (places.state, places.cache, places.user_config)]
    system = next((r for r in _RESERVED if _touches(path, r)), None)
    if any(path.is_relative_to(s) for s in _SOURCES):
        system = None
    reasons = (
        (path == Path("/"), "it is the whole machine; name the project's folder"),
        (path == home, "it is your home folder; name the project's folder"),
        (home.is_relative_to(path), "it contains your home folder; name the project's folder"),
        (".massgen" in path.parts, "it lies inside `.massgen`, where runs are recorded; name another folder"),
        (".git" in path.parts, "it lies inside `.git`; name the folder that contains it"),
        (
            any(_touches(path, folder) for folder in ours),
            "massgen keeps its own files there; name a folder inside or beside it that is yours alone",
        ),
        (
            system is not None,
            f"{system} belongs to the system (or to the container); copy what agents need into a folder of yours",
        ),
        (path in _NEVER_WHOLE, "it is shared by everything on this machine; name a folder in it"),
    )
    return next((why for holds, why in reasons if holds), "")


def _touches(path: Path, root: Path) -> bool:
    return path.is_relative_to(root) or root.is_relative_to(path)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path


def _speakable(path: str) -> None:
    """A path is put into prompts, labels and terminal lines: control characters and undecodable bytes would lie there."""
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        raise ConfigError(f"context path {path!a} has control characters or undecodable bytes in its name; rename it")


def _protected(root: Path, typed: str) -> Path:
    path = Path(typed)
    if ".." in path.parts or not typed.strip():
        raise ConfigError(f"protected path {typed!r} must lie below {root}; write it without `..`")
    whole = path if path.is_absolute() else root / path
    if whole == root or not whole.is_relative_to(root):
        raise ConfigError(f"protected path {typed!r} does not lie below {root}; protected_paths are inside their context path")
    return whole


def merged(paths: Iterable[ContextPath]) -> tuple[ContextPath, ...]:
    """The paths without repetitions. Raises ConfigError when two of them cannot both be kept."""
    out: list[ContextPath] = []
    for new in paths:
        same = next((p for p in out if p.path == new.path), None)
        if same is None:
            out.append(new)
        elif same.permission != new.permission:
            raise ConfigError(f"context path {new.path} is given as `read` and as `write`; keep one of the two")
        else:
            both = tuple(dict.fromkeys(same.protected_paths + new.protected_paths))
            out[out.index(same)] = ContextPath(path=same.path, permission=same.permission, typed=same.typed, protected_paths=both)
    for one in out:
        for other in out:
            if one is not other and other.permission == "write" and one.path.is_relative_to(other.path):
                raise ConfigError(_overlap(one, other))
    reads = [p.path for p in out if p.permission == "read"]
    return tuple(p for p in out if p.permission == "write" or not _below_any(p.path, reads))


def _below_any(path: Path, folders: Iterable[Path]) -> bool:
    return any(path != f and path.is_relative_to(f) for f in folders)


def _overlap(inner: ContextPath, outer: ContextPath) -> str:
    if inner.permission == "write":
        return f"write paths overlap: {inner.path} lies in {outer.path}; keep one of the two"
    return (
        f"read path {inner.path} lies in write path {outer.path}; remove it (agents see it anyway), "
        "or list it under protected_paths to keep it unchanged"
    )
