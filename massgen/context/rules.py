"""The rules of a run's context paths, both ways: what goes in, and what of an agent's changes comes out.

`rules_for(paths)` walks each path once, before the first container. Afterwards `withhold` says what a mount
leaves out, and `judge` what a snapshot leaves out: caches, what the base ignores, and names that are
withheld. The latter are reported, because an agent that wrote a `.env` believes that it delivered one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from massgen.config.model import ContextPath
from massgen.context.history import CHECK_S, Repository, repository
from massgen.context.ignore import ignored_by_git
from massgen.context.names import build_folder, is_cache
from massgen.context.withheld import Listing, Matcher, listing, matcher_for
from sandbox.gitmask import git_root


class ChangeLike(Protocol):
    """What is asked of a change: where, and of which kind (`sandbox.Change`)."""

    @property
    def root(self) -> str:
        """Absolute path inside of the draft (or `/workspace`)."""
        ...

    @property
    def path(self) -> str:
        """Relative to `root`; empty: the root itself."""
        ...

    @property
    def kind(self) -> str:
        """`file`, `link`, `dir` or `gone`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Which changes a snapshot keeps."""

    keep: frozenset[int]
    """Indexes into the changes."""
    left_out: tuple[str, ...]
    """Absolute paths with withheld names, for the record and for telling the agent. Caches are not mentioned."""


@dataclass(kw_only=True)
class Rules:
    """One run's. `listings` and `matchers` are by the context path's own path."""

    listings: dict[Path, Listing]
    matchers: dict[Path, Matcher]
    _left_out: set[str] = field(default_factory=set)
    _repositories: dict[Path, Repository] = field(default_factory=dict)

    def withhold(self, path: Path) -> tuple[str, ...]:
        """Relative paths below the context path `path` that no mount shows (`Mount.withhold`)."""
        return tuple(w.path for w in self.listings[path].withheld)

    def repository(self, path: Path, *, within_s: float = CHECK_S) -> Repository:
        """What of the repository at the top of a context path may be shown. Decided once; blocks for at most so long."""
        if path not in self._repositories:
            self._repositories[path] = repository(self.listings[path], self.matchers[path], within_s=within_s)
        return self._repositories[path]

    def keep(self, changes: Sequence[ChangeLike]) -> frozenset[int]:
        """`judge` in the form that `Sandbox.snapshot` takes; what is left out is remembered in `left_out`."""
        judged = self.judge(changes)
        self._left_out.update(judged.left_out)
        return judged.keep

    @property
    def left_out(self) -> tuple[str, ...]:
        """All that `keep` has left out so far."""
        return tuple(sorted(self._left_out))

    def judge(self, changes: Sequence[ChangeLike]) -> Judged:
        """Sort the changes of one sandbox. May run git on the host for at most some seconds."""
        keep: set[int] = set()
        left_out: list[str] = []
        candidates: dict[Path, list[int]] = {}
        for index, change in enumerate(changes):
            root = Path(change.root)
            if change.path and is_cache(change.path):
                continue
            if root not in self.matchers or not change.path:
                keep.add(index)
            elif self._is_withheld(root, change):
                if change.kind != "gone":
                    left_out.append(f"{change.root}/{change.path}")
            else:
                candidates.setdefault(root, []).append(index)
        for root, indexes in candidates.items():
            keep.update(_not_ignored(root, changes, indexes))
        return Judged(keep=frozenset(keep), left_out=tuple(left_out))

    def _is_withheld(self, root: Path, change: ChangeLike) -> bool:
        if self.matchers[root].reason_anywhere(change.path, is_dir=change.kind == "dir"):
            return True
        return any(change.path == w.path or change.path.startswith(w.path + "/") for w in self.listings[root].withheld)


def rules_for(paths: Iterable[ContextPath]) -> Rules:
    """Walk every context path. Raises ConfigError: secret-like, too large, or an unusable pattern file."""
    listings: dict[Path, Listing] = {}
    matchers: dict[Path, Matcher] = {}
    for item in paths:
        if item.path not in listings:
            matchers[item.path] = matcher_for(item.path)
            listings[item.path] = listing(item.path, matchers[item.path])
    return Rules(listings=listings, matchers=matchers)


def _not_ignored(root: Path, changes: Sequence[ChangeLike], indexes: list[int]) -> list[int]:
    """In a repository git decides; elsewhere new build folders are left out by name.

    A context path that is itself ignored counts as elsewhere: git would call everything in it ignored.
    """
    top = git_root(root)
    if top is None or (top != root and ignored_by_git(top, [root.relative_to(top).as_posix()])):
        return [i for i in indexes if not _is_new_build_output(root, changes[i].path)]
    spelled = {i: changes[i].path + ("/" if changes[i].kind == "dir" else "") for i in indexes}
    ignored = ignored_by_git(root, list(spelled.values()))
    return [i for i in indexes if spelled[i] not in ignored]


def _is_new_build_output(root: Path, path: str) -> bool:
    folder = build_folder(path)
    return bool(folder) and not (root / folder).exists()
