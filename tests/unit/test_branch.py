"""A result on a branch, in repositories that are not plain: as `git add` would have it, or refused, and nothing else runs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from massgen.coordination.branch import Commit, to_branch
from massgen.errors import ConfigError
from sandbox import Entry, Snapshot, Store

Put = Callable[..., Commit]


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "u")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "u@example.org")
    top = tmp_path / "project"
    top.mkdir()
    git(top, "init", "-q", "-b", "trunk")
    (top / ".gitattributes").write_text("*.bat text eol=crlf\n*.big filter=evil\n*.auto text=auto\n")
    (top / "run.bat").write_bytes(b"one\r\n")
    git(top, "add", "-A")
    blob = git(top, "hash-object", "-w", "--stdin", "--no-filters", feed=b"own\r\n").strip()
    git(top, "update-index", "--add", "--cacheinfo", f"100644,{blob},own.auto")
    git(top, "commit", "-qm", "base")
    return top


def git(top: Path, *words: str, feed: bytes = b"") -> str:
    """The user's own."""
    return subprocess.run(["git", "-C", top, *words], input=feed, check=True, capture_output=True).stdout.decode()


@pytest.fixture
def put(top: Path, tmp_path: Path) -> Put:
    """Commit files with these contents on the branch `result`."""
    store = Store(tmp_path / "store")

    def commit(**files: bytes) -> Commit:
        names = {name.replace("_", "."): content for name, content in files.items()}
        entries = [
            Entry(root=str(top), path=name, kind="file", mode=0o644, size=len(content), sha256=store.put(content))
            for name, content in names.items()
        ]
        return to_branch("result", Snapshot(entries=tuple(entries)), store, message="m")

    return commit


def test_line_ends_of_the_working_tree_get_into_the_commit(top: Path, put: Put) -> None:
    """What attributes convert is converted; a file that has them in HEAD keeps them; a diff shows the edit and nothing else."""
    put(run_bat=b"one\r\ntwo\r\n", own_auto=b"own\r\nmore\r\n", new_auto=b"x\r\n")
    assert git(top, "diff", "--numstat", "trunk", "result").split() == [
        "1",
        "0",
        "new.auto",
        "1",
        "0",
        "own.auto",
        "1",
        "0",
        "run.bat",
    ]
    assert git(top, "cat-file", "blob", "result:new.auto") == "x\n"
    git(top, "checkout", "-q", "result")
    assert git(top, "status", "--porcelain") == ""


def test_a_filter_program_is_started_or_left_out(top: Path, put: Put, tmp_path: Path) -> None:
    """A pointer is not what the agents wrote, and a program of the repository's is not ours to start: refused."""
    git(top, "config", "filter.evil.clean", f"touch {tmp_path}/CAUGHT")
    with pytest.raises(ConfigError, match=r"x\.big goes through the filter evil"):
        put(x_big=b"large")
    assert not (tmp_path / "CAUGHT").exists()
    assert "result" not in git(top, "branch")


def test_a_submodule_is_replaced_by_a_folder(top: Path, put: Put) -> None:
    """One that is not checked out is an empty folder, in which agents may write."""
    head = git(top, "rev-parse", "HEAD").strip()
    git(top, "update-index", "--add", "--cacheinfo", f"160000,{head},part")
    git(top, "commit", "-qm", "part")
    with pytest.raises(ConfigError, match="the submodule"):
        put(**{"part/x": b"x"})


def test_another_repository_is_written_in(top: Path, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the one that a hook's variables name, nor one whose working tree is elsewhere."""
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    made = put(a=b"a")
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")
    assert git(top, "rev-parse", "result").strip() == made.sha
    git(top, "config", "core.worktree", str(other))
    with pytest.raises(ConfigError, match="no git repository that can be used"):
        put(a=b"b")
