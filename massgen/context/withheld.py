"""What of a context path is never shown to any agent: decided from names, two pattern files, and a walk.

Order of the rules: `.git` and `.massgen` always; then `.massgeninclude` (brings back); then
`.massgenignore` and the secret-like names (`names.py`). The pattern files use git's syntax and are looked
for in the context path and above it, up to the git root. What is withheld is absent from every mount: an
agent cannot be talked into reading what is not there.

The walk happens on the host before any container exists. It follows no link, holds a descriptor per folder
instead of joining paths, and is bounded: a tree too large to copy is an error that says so, not a long wait.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from massgen.context.names import inside_secret, secret_like, words_to_look_for
from massgen.errors import ConfigError
from sandbox.gitmask import git_root
from sandbox.snapshot import is_git_name

IGNORE_FILE = ".massgenignore"
INCLUDE_FILE = ".massgeninclude"

MAX_FILES = 200_000
MAX_DEPTH = 128
_MAX_PATTERN_BYTES = 256 * 1024
_SNIFF_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """The lines of one pattern file, matched below the folder it lies in."""

    prefix: str
    """Path of the context path relative to that folder, with a closing `/`; empty when it is the same."""
    spec: GitIgnoreSpec

    def match(self, path: str, *, is_dir: bool) -> bool:
        """True when the pattern file names this path (relative to the context path)."""
        return self.spec.match_file(self.prefix + path + ("/" if is_dir else ""))


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """PURE: the rules of one context path."""

    ignore: tuple[Patterns, ...] = ()
    include: tuple[Patterns, ...] = ()

    def reason(self, path: str, *, is_dir: bool = False) -> str:
        """Why this path is withheld (`git`, `massgen`, `pattern`, `secret`), judged by its last component; empty: it is not."""
        name = path.rsplit("/", 1)[-1]
        if is_git_name(name):
            return "git"
        if name.casefold() == ".massgen":
            return "massgen"
        if self.brings_back(path, is_dir=is_dir):
            return ""
        if any(p.match(path, is_dir=is_dir) for p in self.ignore):
            return "pattern"
        return "secret" if secret_like(path) else ""

    def brings_back(self, path: str, *, is_dir: bool = False) -> bool:
        """True when `.massgeninclude` names it."""
        return any(p.match(path, is_dir=is_dir) for p in self.include)

    def reason_anywhere(self, path: str, *, is_dir: bool = False) -> str:
        """The same for a path whose parents have not been judged: the first reason from the top."""
        parts = path.split("/")
        for index in range(1, len(parts) + 1):
            why = self.reason("/".join(parts[:index]), is_dir=is_dir or index < len(parts))
            if why:
                return why
        return ""


@dataclass(frozen=True, kw_only=True)
class Withheld:
    """One withheld path: a file, or a folder with all that is in it."""

    path: str
    reason: str
    """`git`, `massgen`, `pattern`, `secret`, `special` (socket, pipe, device), `unreadable`."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What agents see of one context path."""

    root: Path
    files: int = 0
    bytes: int = 0
    withheld: tuple[Withheld, ...] = ()
    brought_back: tuple[str, ...] = ()
    """Secret-like, and shown because `.massgeninclude` says so."""

    @property
    def counted(self) -> tuple[Withheld, ...]:
        """The withheld paths worth counting to a user: not `.git` and `.massgen`, which are never context."""
        return tuple(w for w in self.withheld if w.reason not in ("git", "massgen"))


@dataclass(kw_only=True)
class _Tally:
    files: int = 0
    bytes: int = 0
    withheld: list[Withheld] = field(default_factory=list)
    brought_back: list[str] = field(default_factory=list)


def matcher_for(root: Path) -> Matcher:
    """The rules in force for a context path. Raises ConfigError for an unusable pattern file."""
    folder = root if root.is_dir() else root.parent
    top = git_root(folder) or folder
    ignore: list[Patterns] = []
    include: list[Patterns] = []
    for place in (folder, *folder.parents):
        prefix = "" if place == folder else folder.relative_to(place).as_posix() + "/"
        for name, rules in ((IGNORE_FILE, ignore), (INCLUDE_FILE, include)):
            lines = _pattern_lines(place / name)
            if lines:
                rules.append(Patterns(prefix=prefix, spec=_spec(place / name, lines)))
        if place == top:
            break
    return Matcher(ignore=tuple(ignore), include=tuple(include))


def _pattern_lines(path: Path) -> list[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); it must be a plain file, as it decides what is shown"
        ) from error
    with os.fdopen(fd, "rb") as file:
        try:
            raw = file.read(_MAX_PATTERN_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}); it must be a plain file") from error
    if len(raw) > _MAX_PATTERN_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_PATTERN_BYTES // 1024} KiB; shorten it")
    return raw.decode("utf-8", "surrogateescape").splitlines()


def _spec(path: Path, lines: list[str]) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise ConfigError(f"{path} has an unusable pattern ({error}); its syntax is that of .gitignore") from error


def listing(root: Path, matcher: Matcher) -> Listing:
    """Walk a context path. Raises ConfigError when it is itself secret-like, too large or too deep."""
    if inside_secret(root.as_posix().lstrip("/")) and not matcher.brings_back(root.name):
        raise ConfigError(
            f"context path {root} is secret-like by its name and never shown to agents; "
            f"copy what they need elsewhere, or name it in {root.parent / INCLUDE_FILE}"
        )
    if not root.is_dir():
        return Listing(root=root, files=1, bytes=root.stat().st_size)
    tally = _Tally()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _walk(fd, "", matcher, tally, root)
    finally:
        os.close(fd)
    return Listing(
        root=root,
        files=tally.files,
        bytes=tally.bytes,
        withheld=tuple(sorted(tally.withheld, key=lambda w: w.path)),
        brought_back=tuple(sorted(tally.brought_back)),
    )


def _walk(fd: int, prefix: str, matcher: Matcher, tally: _Tally, root: Path) -> None:
    if prefix.count("/") > MAX_DEPTH:
        raise ConfigError(f"context path {root} is nested deeper than {MAX_DEPTH} folders; name a smaller folder")
    for entry in _entries(fd):
        path = prefix + entry.name
        is_dir = entry.is_dir(follow_symlinks=False)
        why = matcher.reason(path, is_dir=is_dir) or _by_content(fd, entry, path, matcher)
        if why:
            tally.withheld.append(Withheld(path=path, reason=why))
            continue
        if secret_like(path):
            tally.brought_back.append(path)
        if is_dir:
            _descend(fd, path, matcher, tally, root)
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:  # gone meanwhile: the user goes on working
            continue
        tally.files += 1
        tally.bytes += status.st_size if stat.S_ISREG(status.st_mode) else 0
        if tally.files > MAX_FILES:
            raise ConfigError(
                f"context path {root} has more than {MAX_FILES} files; name a smaller folder, or list what agents do not need in "
                f"{root / IGNORE_FILE}"
            )


def _entries(fd: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(fd) as found:
        yield from sorted(found, key=lambda e: e.name)


def _descend(fd: int, path: str, matcher: Matcher, tally: _Tally, root: Path) -> None:
    try:
        child = os.open(path.rsplit("/", 1)[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        tally.withheld.append(Withheld(path=path, reason="unreadable"))
        return
    try:
        _walk(child, path + "/", matcher, tally, root)
    finally:
        os.close(child)


def _by_content(fd: int, entry: os.DirEntry[str], path: str, matcher: Matcher) -> str:
    """`secret`, `special`, `unreadable`, or empty: what only the file itself can tell."""
    if entry.is_symlink() or entry.is_dir(follow_symlinks=False):
        return ""
    if not entry.is_file(follow_symlinks=False):
        return "special"
    words = words_to_look_for(entry.name)
    if not words or matcher.brings_back(path):
        return ""
    try:
        child = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return "unreadable"
    with os.fdopen(child, "rb") as file:
        head = file.read(_SNIFF_BYTES).lower()
    return "secret" if any(w.lower() in head for w in words) else ""
