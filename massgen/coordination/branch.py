"""A run's result as one commit on a new branch: neither HEAD, nor the index, nor a file of the working tree moves.

The user's own git does it, on the user's own repository, which no agent can have written to. Hooks, filters, signing and file
system monitors stay off all the same: contents go in as they are, by their bytes.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from massgen.errors import ConfigError
from sandbox import Entry, Snapshot, Store, scratch
from sandbox.base import absolute

GIT_S = 60.0
_QUIET = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "commit.gpgSign=false", "gc.auto=0")


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
    if repository.commit(f"refs/heads/{name}"):
        raise ConfigError(f"there is a branch {name} already; name another one")
    with scratch.folder("branch") as folder:
        index = folder / "index"
        parent = repository.commit("HEAD")
        repository.git("read-tree", *([parent] if parent else ["--empty"]), index=index)
        rows = b"".join(_row(repository, path, entry, store) for path, entry in places.items())
        repository.git("update-index", "-z", "--index-info", stdin=rows, index=index)
        tree = repository.git("write-tree", index=index)
    sha = repository.git("commit-tree", tree, *(["-p", parent] if parent else []), "-F", "-", stdin=message.encode())
    repository.git("update-ref", f"refs/heads/{name}", sha, "0" * len(sha))
    return Commit(branch=name, sha=sha, files=tuple(map(str, places)))


def _top(places: dict[Path, Entry]) -> Path:
    tops = set()
    for path in places:
        folder = next(above for above in path.parents if above.is_dir())
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False, timeout=GIT_S
        )
        if found.returncode:
            raise ConfigError(f"{path} lies in no git repository, so there is no branch to put it on; use `massgen apply`")
        tops.add(Path(found.stdout.removesuffix("\n")))
    if len(tops) != 1:
        raise ConfigError(f"the result lies in {len(tops)} repositories; apply each part with --only")
    return tops.pop()


class _Repository:
    def __init__(self, top: Path) -> None:
        self.top = top

    def git(self, *words: str, stdin: bytes = b"", index: Path | None = None) -> str:
        """One git command. Raises ConfigError with git's words."""
        options = [part for setting in _QUIET for part in ("-c", setting)]
        env = {**os.environ, **({"GIT_INDEX_FILE": str(index)} if index else {})}
        command = ["git", "-C", str(self.top), *options, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, env=env, check=False, timeout=GIT_S)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise ConfigError(f"git {words[0]} refused: {said[-1] if said else done.returncode}; nothing was changed")
        return done.stdout.decode().strip()

    def commit(self, name: str) -> str:
        """What it names; empty: nothing."""
        found = subprocess.run(
            ["git", "-C", str(self.top), "rev-parse", "--verify", "--quiet", name],
            capture_output=True,
            text=True,
            check=False,
            timeout=GIT_S,
        )
        return found.stdout.strip()


def _row(repository: _Repository, path: Path, entry: Entry, store: Store) -> bytes:
    name = os.fsencode(str(path.relative_to(repository.top)))
    if entry.kind == "gone":
        return b"0 " + b"0" * 40 + b"\t" + name + b"\0"
    content = entry.target.encode("utf-8", "surrogateescape") if entry.kind == "link" else store.get(entry.sha256)
    blob = repository.git("hash-object", "-w", "--no-filters", "--stdin", stdin=content)
    mode = "120000" if entry.kind == "link" else "100755" if entry.mode & 0o100 else "100644"
    return f"{mode} {blob}\t".encode() + name + b"\0"
