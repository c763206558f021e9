"""What agents see of a project's `.git`: its history, never its credentials, hooks or anything it does not name here.

`clean`: by name, what git needs to read history is shown, and the config is written anew from an allow-list (a list of
what to drop would miss the next tool that keeps a token there). `fresh`: the repository is replaced by a new one with one
commit of what is visible, for projects in whose history something withheld could be read. Both are built in the mask: the
project's own `.git` is only read, git on the host runs no hook and reads no config of the user's.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from sandbox.snapshot import is_git_name
from sandbox.spec import GitView
from sandbox.whiteout import opaque, whiteout

GIT_S = 120.0
CONFIG_NAMES = ("config", "config.worktree")
SHOWN = frozenset(
    {
        "HEAD", "ORIG_HEAD", "MERGE_HEAD", "MERGE_MODE", "MERGE_MSG", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG",
        "COMMIT_EDITMSG", "SQUASH_MSG", "description", "index", "info", "objects", "packed-refs", "rebase-apply", "rebase-merge",
        "refs", "reftable", "sequencer", "shallow",
    }
)  # fmt: skip
_KEPT = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|ignorecase|precomposeunicode|symlinks|autocrlf|eol|safecrlf|sparsecheckout"
    r"|sparsecheckoutcone|commentchar|quotepath|abbrev)"
    r"|extensions\.(objectformat|compatobjectformat|refstorage|worktreeconfig|noop|preciousobjects)"
    r"|(branch|remote|submodule)\..+\.(remote|merge|rebase|fetch|tagopt|url|pushurl|active|branch)"
    r"|init\.defaultbranch|diff\.(algorithm|renames)|merge\.conflictstyle|pull\.(rebase|ff)|user\.(name|email)"
)
ONE_COMMIT = "What is visible here; the project's own history is not shown"
"""The message of the only commit, where that is what is shown of a history."""
_PLAIN = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
_ANONYMOUS = ("[user]\n\tname = agent\n\temail = agent@sandbox.invalid\n",)


def is_repository(folder: Path) -> bool:
    """Whether a folder is the top of one, a worktree or a submodule."""
    return (folder / ".git").exists()


def git_root(start: Path) -> Path | None:
    """The nearest repository at or above a folder; git itself is not asked (it would read the project's config)."""
    return next((folder for folder in (start, *start.parents) if is_repository(folder)), None)


def show(mask: Path, source: Path, hidden: Collection[str], git: GitView) -> GitView:
    """Build `.git` in the mask; returns what came of it. Whatever goes wrong hides it: nothing half is shown. Blocks."""
    place, original = mask / ".git", source / ".git"
    try:
        about = original.lstat()
        if git == "hide" or shutil.which("git") is None:
            return "hide"
        if git == "clean" and stat.S_ISDIR(about.st_mode) and not _elsewhere(original):
            _clean(place, original)
            return "clean"
        _fresh(place, source, hidden)
        return "fresh"
    except (OSError, subprocess.SubprocessError):
        shutil.rmtree(place, ignore_errors=True)
        return "hide"


def _elsewhere(original: Path) -> bool:
    """Part of the repository lies where no mount shows it, or its work tree does."""
    borrowed = any(os.path.lexists(original / "objects/info" / name) for name in ("alternates", "http-alternates"))
    linked = any((original / name).is_symlink() for name in SHOWN) or os.path.lexists(original / "commondir")
    return borrowed or linked or any(key == "core.worktree" for key, _ in _settings(original / "config"))


def _clean(place: Path, original: Path) -> None:
    place.mkdir(mode=0o700)
    for name in sorted(p.name for p in original.iterdir()):
        if name in CONFIG_NAMES:
            _write(place / name, original / name, _ANONYMOUS if name == "config" else ())
        elif name not in SHOWN:
            whiteout(place / name)


def _write(place: Path, original: Path, first: tuple[str, ...]) -> None:
    place.write_text("".join((*first, *_lines(original))), encoding="utf-8", errors="surrogateescape")
    about = original.lstat()
    if os.geteuid() == 0:
        os.chown(place, about.st_uid, about.st_gid)
    place.chmod(stat.S_IMODE(about.st_mode))


def _lines(config: Path) -> Iterator[str]:
    for key, value in _settings(config):
        if not _KEPT.fullmatch(key.lower()):
            continue
        section, _, rest = key.partition(".")
        subsection, _, name = rest.rpartition(".")
        told = harmless_url(value) if name in ("url", "pushurl") else value
        yield f'[{section} "{_quoted(subsection)}"]\n' if subsection else f"[{section}]\n"
        yield f'\t{name} = "{_quoted(told)}"\n'


def _settings(config: Path) -> list[tuple[str, str]]:
    """Key and value of a config file alone, nothing included. Raises OSError, SubprocessError."""
    if not config.is_file() or config.is_symlink():
        return []
    argv = ["config", "--file", str(config), "--no-includes", "--list", "-z"]
    rows = os.fsdecode(_git(argv, cwd=Path("/"))).split("\0")
    return [(key, value if equals else "true") for key, equals, value in (row.partition("\n") for row in rows if row)]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t").replace("\b", "\\b")


def harmless_url(url: str) -> str:
    """The same address without user, password, query and fragment; `git@host:path` has none of them to lose but the user."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url.rpartition("@")[2].partition("?")[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2].partition('?')[0]}{slash}{re.split('[?#]', path, maxsplit=1)[0]}"


def _fresh(place: Path, source: Path, hidden: Collection[str]) -> None:
    place.mkdir(mode=0o700)
    opaque(place)
    _git(["init", "-q", "--template=", "--initial-branch=main"], cwd=source, git_dir=place, work_tree=source)

    def ask(*argv: str, feed: bytes = b"") -> bytes:
        return _git(list(argv), cwd=source, git_dir=place, work_tree=source, feed=feed)

    names = [n for n in os.fsdecode(ask("ls-files", "-z", "-o", "--exclude-standard")).split("\0") if _visible(n, hidden)]
    ask("update-index", "-z", "--add", "--stdin", feed=b"".join(os.fsencode(n) + b"\0" for n in names))
    tree = ask("write-tree").decode().strip()
    commit = ask("commit-tree", tree, "-m", ONE_COMMIT).decode().strip()
    ask("update-ref", "refs/heads/main", commit)
    (place / "config").write_text("".join((_PLAIN, *_ANONYMOUS)), encoding="ascii")
    _give(place, source)


def _visible(name: str, hidden: Collection[str]) -> bool:
    """A nested repository is listed with a closing slash; nothing of it is read."""
    parts = name.split("/")
    above = {"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return bool(name) and not name.endswith("/") and above.isdisjoint(hidden) and not any(map(is_git_name, parts))


def _give(place: Path, source: Path) -> None:
    """To whoever owns the project: the agent has that uid."""
    about = source.lstat()
    for inner in (place, *place.rglob("*")):
        if os.geteuid() == 0:
            os.chown(inner, about.st_uid, about.st_gid, follow_symlinks=False)
    place.chmod(0o755)


def _git(argv: list[str], *, cwd: Path, git_dir: Path | None = None, work_tree: Path | None = None, feed: bytes = b"") -> bytes:
    """One call of git that reads no config but the repository's it is pointed at. Raises OSError, SubprocessError."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_AUTHOR_NAME": "agent",
        "GIT_AUTHOR_EMAIL": "agent@sandbox.invalid",
        "GIT_COMMITTER_NAME": "agent",
        "GIT_COMMITTER_EMAIL": "agent@sandbox.invalid",
    }
    if git_dir is not None and work_tree is not None:
        env |= {"GIT_DIR": str(git_dir), "GIT_WORK_TREE": str(work_tree)}
    done = subprocess.run(["git", *argv], cwd=cwd, env=env, input=feed, capture_output=True, timeout=GIT_S, check=True)
    return done.stdout
