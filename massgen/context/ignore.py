"""What git ignores, asked of git itself: pattern libraries differ from it in nested and negated rules.

git runs on the host, in the user's project, before any container may write there; still, a repository's own
config can name programs (fsmonitor, hooks, a promisor remote's transport), so those are switched off and no
`GIT_*` variable is passed on. Any failure means "not ignored": showing one change too many is the safe side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

OPTIONS = (
    "-c", "core.fsmonitor=",
    "-c", "core.hooksPath=/dev/null",
    "-c", "safe.directory=*",
    "-c", "protocol.allow=never",
)  # fmt: skip
_TIMEOUT_S = 10.0


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without what steers git, and with lazy fetching and prompts off."""
    kept = {k: v for k, v in env.items() if not k.startswith("GIT_")}
    return kept | {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


def ignored_by_git(root: Path, paths: Sequence[str], *, git: str | None = None) -> frozenset[str]:
    """Those of `paths` (relative to `root`; folders with a closing `/`) that the repository's rules ignore.

    Tracked files are never ignored. Empty when `root` is in no repository or there is no git.
    """
    program = git or shutil.which("git")
    asked = [p for p in paths if p.strip("/") and not _beyond_link(root, p)]
    if program is None or not asked:
        return frozenset()
    return _ask(program, root, asked)


def _ask(program: str, root: Path, paths: list[str]) -> frozenset[str]:
    """One question for all; when git dies over one path (in a submodule, say), the halves are asked apart."""
    try:
        done = subprocess.run(
            [program, *OPTIONS, "-C", str(root), "check-ignore", "-z", "--stdin"],
            input=b"\0".join(os.fsencode(p) for p in paths) + b"\0",
            capture_output=True,
            env=clean_environment(os.environ),
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    if done.returncode in (0, 1):
        return frozenset(os.fsdecode(p) for p in done.stdout.split(b"\0") if p)
    if len(paths) == 1 or b"not a git repository" in done.stderr:
        return frozenset()
    middle = len(paths) // 2
    return _ask(program, root, paths[:middle]) | _ask(program, root, paths[middle:])


def _beyond_link(root: Path, path: str) -> bool:
    """True when a folder of the path is a link in the project: git refuses to look there."""
    parts = path.rstrip("/").split("/")
    return any((root / "/".join(parts[:i])).is_symlink() for i in range(1, len(parts)))
