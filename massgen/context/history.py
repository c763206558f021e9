"""How much of a context path's repository agents may see: all of its history, a fresh one of a single commit, or nothing.

What is withheld from the files may still lie in `.git`: tracked, committed once and removed, or only added to the index. So every
object of the repository must have a name in what its refs, reflogs and index reach, and no such name may be a withheld one; the
content of each withheld file must not be there under any name. Anything else, and whatever goes wrong, shows less. Judging by
`git ls-files` alone, the obvious way, misses all that is no longer tracked.

git runs on the host before any container exists; it reads the project's own config, so programs that this may name are off.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from massgen.context.ignore import OPTIONS, clean_environment
from massgen.context.names import words_to_look_for
from massgen.context.withheld import Listing, Matcher
from sandbox.spec import GitView

CHECK_S = 20.0
"""For one repository of a run: some seconds for 100,000 commits."""
MAX_HASHED = 2_000
"""Withheld files whose content is looked for."""
_OURS = ("git", "massgen")
"""Reasons to withhold that are no secret of the user's: never tracked by git, or ignored by a rule of our own."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What is shown of the repository at the top of a context path."""

    view: GitView
    why: str = ""
    """Why it is less than its history, for people; empty where it is all of it, or where there is none."""


def repository(found: Listing, matcher: Matcher, *, within_s: float = CHECK_S) -> Repository:
    """Decide for one context path. Blocks for at most so long; never raises for what the repository is like."""
    try:
        mode = (found.root / ".git").lstat().st_mode
    except OSError:
        return Repository(view="hide")
    if shutil.which("git") is None:
        return Repository(view="hide", why="git is not installed here")
    if not stat.S_ISDIR(mode):
        return Repository(view="fresh", why="it is a worktree or submodule, whose repository lies elsewhere")
    try:
        why = _readable(found, matcher, within_s)
    except subprocess.TimeoutExpired:
        return Repository(view="hide", why=f"its history cannot be checked within {within_s:.0f} s")
    except (OSError, subprocess.SubprocessError):
        return Repository(view="hide", why="git cannot read all of it")
    return Repository(view="fresh", why=why) if why else Repository(view="clean")


def _readable(found: Listing, matcher: Matcher, within_s: float) -> str:
    """What withheld thing could be read in the repository; empty when none. Raises OSError, SubprocessError."""
    ask = _Git(found.root, within_s)
    blobs = ask.blobs()
    for sha, path in ask.named():
        if sha in blobs and _withheld(path, sha, matcher, ask):
            return f"{path} is in its history"
        blobs.discard(sha)
    hidden = [w.path for w in found.withheld if w.reason not in _OURS]
    if hidden and blobs:
        return f"it holds {len(blobs)} objects without a name, and files are withheld here (`git gc --prune=now` removes them)"
    files = _files(found.root, hidden)
    if len(files) > MAX_HASHED:
        return f"more than {MAX_HASHED} files are withheld, too many to look for in its history"
    return ask.contents(files)


def _withheld(path: str, sha: str, matcher: Matcher, ask: _Git) -> bool:
    """The same rules as for files of now; where a name only raises the question, the content of then answers it."""
    if matcher.reason_anywhere(path):
        return True
    words = words_to_look_for(path.rsplit("/", 1)[-1])
    if not words or matcher.brings_back(path):
        return False
    content = ask.run("cat-file", "blob", sha).lower()
    return any(word.lower() in content for word in words)


class _Git:
    """One repository, asked until the deadline."""

    def __init__(self, root: Path, within_s: float) -> None:
        self._root = root
        self._deadline = time.monotonic() + within_s
        self._env = clean_environment(os.environ) | {"GIT_NO_REPLACE_OBJECTS": "1"}

    def run(self, *words: str, feed: bytes = b"") -> bytes:
        """Raises SubprocessError when git fails or the time is up."""
        argv = ["git", *OPTIONS, "-C", str(self._root), *words]
        left_s = max(self._deadline - time.monotonic(), 0.1)
        done = subprocess.run(argv, input=feed, capture_output=True, env=self._env, timeout=left_s, check=True)
        return done.stdout

    def blobs(self) -> set[str]:
        """Every file content that is there, whoever names it."""
        rows = self.run("cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objecttype) %(objectname)")
        return {sha for kind, _, sha in (row.partition(" ") for row in rows.decode("ascii").splitlines()) if kind == "blob"}

    def named(self) -> Iterator[tuple[str, str]]:
        """What refs, reflogs and the index of all worktrees reach, each with one of its paths."""
        reached = ("--all", "--reflog", "--indexed-objects", "--missing=allow-any")
        for row in self.run("rev-list", "--objects", *reached).split(b"\n"):
            sha, _, path = os.fsdecode(row).partition(" ")
            if path:
                yield sha, path

    def contents(self, files: Sequence[str]) -> str:
        """The first of these files whose content of now is in the repository; empty when none is."""
        if not files:
            return ""
        listed = "".join(f"{name}\n" for name in files)
        shas = self.run("hash-object", "--no-filters", "--stdin-paths", feed=os.fsencode(listed)).decode("ascii").split()
        rows = self.run("cat-file", "--batch-check=%(objecttype)", feed="".join(f"{s}\n" for s in shas).encode()).decode()
        for name, row in zip(files, rows.splitlines(), strict=True):
            if row == "blob":
                return f"the content of {Path(name).name} is in its history"
        return ""


def _files(root: Path, withheld: Sequence[str]) -> list[str]:
    """Withheld files that can be read and hold something, those in withheld folders too; at most one beyond `MAX_HASHED`."""
    found: list[str] = []
    for name in withheld:
        place = root / name
        inner = [Path(base) / file for base, _, files in os.walk(place) for file in files] if place.is_dir() else [place]
        for file in inner:
            about = file.lstat()
            if stat.S_ISREG(about.st_mode) and about.st_size and os.access(file, os.R_OK) and "\n" not in str(file):
                found.append(str(file))
            if len(found) > MAX_HASHED:
                return found
    return found
