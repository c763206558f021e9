"""A run's result as one commit on a new branch: neither HEAD, nor the index, nor a file of the working tree moves.

The user's own git does it, on the user's own repository, which no agent can have written to. Hooks, signing, transports and file
system monitors stay off all the same. Line ends and encodings become what git keeps, as `git add` would have it; a file for which
git would start a filter program is refused, as are files in a submodule that is not checked out: the commit would replace it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from massgen.context.ignore import clean_environment
from massgen.errors import ConfigError
from sandbox import Entry, Snapshot, Store, scratch
from sandbox.base import absolute

GIT_S = 60.0
_QUIET = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.splitIndex=false", "core.safecrlf=false"),
    *("commit.gpgSign=false", "gc.auto=0", "protocol.allow=never"),
)
_KEPT = ("GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_CONFIG_")
"""Variables that say who commits. Others say which repository, as in a hook of git's: not the one that is meant here."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What was made."""

    branch: str
    sha: str
    files: tuple[str, ...]


def to_branch(name: str, snapshot: Snapshot, store: Store, *, message: str) -> Commit:
    """Commit the project part of a snapshot on top of HEAD, as a new branch. Blocks.

    Raises ConfigError: no repository, several, a branch of that name, or git's own words.
    """
    places = {Path(absolute(e.root, e.path)): e for e in snapshot.entries if e.kind != "dir"}
    repository = _Repository(_top(places))
    repository.git("check-ref-format", "--branch", name)
    parent = repository.commit("HEAD")
    if repository.commit(f"refs/heads/{name}"):
        raise ConfigError(f"there is a branch {name} already; name another one")
    with scratch.folder("branch") as folder:
        repository.index = folder / "index"
        repository.git("read-tree", *([parent] if parent else ["--empty"]))
        repository.check(places)
        rows = b"".join(_row(repository, path, entry, store) for path, entry in places.items())
        repository.git("update-index", "-z", "--index-info", stdin=rows)
        tree = repository.git("write-tree")
    sha = repository.git("commit-tree", tree, *(["-p", parent] if parent else []), "-F", "-", stdin=message.encode())
    repository.git("update-ref", f"refs/heads/{name}", sha, "0" * len(sha))
    return Commit(branch=name, sha=sha, files=tuple(map(str, places)))


def _top(places: Iterable[Path]) -> Path:
    tops = set()
    for path in places:
        folder = next(above for above in path.parents if above.is_dir())
        found = _git(folder, "rev-parse", "--show-toplevel")
        top = Path(os.fsdecode(found.stdout.removesuffix(b"\n")))
        if found.returncode or not path.is_relative_to(top):
            why = f" ({_last(found.stderr)})" if found.stderr else ""
            raise ConfigError(f"{path} lies in no git repository that can be used{why}, so not on a branch; use `massgen apply`")
        tops.add(top)
    if len(tops) != 1:
        raise ConfigError(f"the result lies in {len(tops)} repositories; apply each part with --only")
    return tops.pop()


def _git(folder: Path, *words: str, stdin: bytes = b"", index: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    options = [part for setting in _QUIET for part in ("-c", setting)]
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
    env = {**clean_environment(os.environ), **kept, **({"GIT_INDEX_FILE": str(index)} if index else {})}
    command = ["git", "-C", str(folder), *options, *words]
    try:
        return subprocess.run(command, input=stdin, capture_output=True, env=env, check=False, timeout=GIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"git {words[0]} failed: {error}; nothing was changed") from error


def _last(said: bytes) -> str:
    """The line of git's complaint that says what is wrong."""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return next((line for line in lines if line.startswith("fatal:")), lines[-1] if lines else "")


class _Repository:
    def __init__(self, top: Path) -> None:
        self.top = top
        self.index: Path | None = None
        """Our own, never the user's."""

    def raw(self, *words: str, stdin: bytes = b"") -> bytes:
        """One git command. Raises ConfigError with git's words."""
        done = _git(self.top, *words, stdin=stdin, index=self.index)
        if done.returncode:
            raise ConfigError(f"git {words[0]} refused: {_last(done.stderr) or done.returncode}; nothing was changed")
        return done.stdout

    def git(self, *words: str, stdin: bytes = b"") -> str:
        """The same, as text."""
        return self.raw(*words, stdin=stdin).decode().strip()

    def commit(self, name: str) -> str:
        """What it names; empty: nothing."""
        return _git(self.top, "rev-parse", "--verify", "--quiet", name).stdout.decode().strip()

    def name(self, path: Path) -> str:
        """As git knows it."""
        return str(path.relative_to(self.top))

    def check(self, places: Iterable[Path]) -> None:
        """Raises ConfigError for what must not be committed from here."""
        rows = [row.split(b"\t", 1) for row in self.raw("ls-files", "-s", "-z").split(b"\0") if row.startswith(b"160000")]
        modules = {self.top / os.fsdecode(name) for _, name in rows}
        for path in places:
            if found := modules & {path, *path.parents}:
                raise ConfigError(f"{path} lies in the submodule {found.pop()}, which is not checked out; use `massgen apply`")
        asked = b"".join(os.fsencode(self.name(path)) + b"\0" for path in places)
        said = self.raw("check-attr", "-z", "--stdin", "filter", stdin=asked).split(b"\0")
        for name, driver in zip(said[::3], said[2::3], strict=False):
            if driver in (b"unspecified", b"unset", b"set"):
                continue
            if any(
                _git(self.top, "config", f"filter.{os.fsdecode(driver)}.{key}").stdout.strip() for key in ("clean", "process")
            ):
                where, what = self.top / os.fsdecode(name), os.fsdecode(driver)
                raise ConfigError(f"{where} goes through the filter {what} of git; `massgen apply`, then commit it yourself")

    def was(self, path: Path) -> bytes:
        """The content in HEAD; empty where there is none."""
        return _git(self.top, "cat-file", "blob", f":{self.name(path)}", index=self.index).stdout


def _row(repository: _Repository, path: Path, entry: Entry, store: Store) -> bytes:
    name = os.fsencode(repository.name(path))
    if entry.kind == "gone":
        return b"0 " + b"0" * 40 + b"\t" + name + b"\0"
    content = entry.target.encode("utf-8", "surrogateescape") if entry.kind == "link" else store.get(entry.sha256)
    # As `git add` does: line ends that HEAD has, too, are the file's own; others are the working tree's.
    own = entry.kind == "link" or (b"\r\n" in content and b"\r\n" in repository.was(path))
    how = "--no-filters" if own else f"--path={repository.name(path)}"
    blob = repository.git("hash-object", "-w", how, "--stdin", stdin=content)
    mode = "120000" if entry.kind == "link" else "100755" if entry.mode & 0o100 else "100644"
    return f"{mode} {blob}\t".encode() + name + b"\0"
