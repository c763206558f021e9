"""Looking at the host: links are seen as links, `.git` is found wherever it is, the cache is never half written."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox import facts
from sandbox.errors import SpecError
from sandbox.spec import Lease, Mount, SandboxSpec


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our own folders, elsewhere than the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "cache" / "massgen"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project."""
    root = tmp_path / "project"
    (root / "sub" / ".git").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "tree").mkdir()
    (root / "tree" / ".git").write_text("gitdir: elsewhere")
    (root / ".env").write_text("x")
    return root


def kind(path: Path) -> str:
    """What `look` says of a path."""
    return facts.look(SandboxSpec(image="i", mounts=(Mount(source=path, mode="ro"),))).paths[path].kind


def test_path_is_not_taken_for_what_it_points_to(root: Path, tmp_path: Path) -> None:
    """A link, or a path through a link, is neither file nor folder: the home folder has no alias."""
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "alias").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert kind(root) == "dir"
    assert kind(root / ".env") == "file"
    assert kind(tmp_path / "nowhere") == "missing"
    for odd in ("link", "alias/project", "fifo"):
        assert kind(tmp_path / odd) == "other"


def test_git_is_found_at_any_depth_under_a_lease_only(root: Path) -> None:
    """Folders and worktree files; a link called `.git` is known as such."""
    (root / "tree2").mkdir()
    (root / "tree2" / ".git").symlink_to("../.git")
    lease = Lease.grant(run_id="r", agent="a", snapshot_id="s", purpose="apply", paths=(root,))
    seen = facts.look(SandboxSpec(image="i"), lease=lease).paths[root]
    assert set(seen.git_folders) == {".git", "sub/.git", "tree/.git"}
    assert seen.git_links == ("tree2/.git",)
    plain = facts.look(SandboxSpec(image="i", mounts=(Mount(source=root, mode="ro"),))).paths[root]
    assert plain.git_folders == ()


def test_withheld_path_that_leaves_its_root_is_refused(root: Path) -> None:
    """Absolute, or with `..`."""
    for name in ("/etc/passwd", "../x", "a/../../x"):
        with pytest.raises(SpecError, match="relative"):
            facts.look(SandboxSpec(image="i", mounts=(Mount(source=root, mode="ro", withhold=(name,)),)))


def test_withheld_path_is_known_by_its_kind(root: Path) -> None:
    """Files and folders that exist, and the repository, which a bind could only show whole; others need no mask."""
    mount = Mount(source=root, mode="ro", withhold=(".env", "sub/", "nowhere"))
    assert facts.look(SandboxSpec(image="i", mounts=(mount,))).paths[root].masks == (
        (".env", "file"),
        ("sub", "dir"),
        (".git", "dir"),
    )


def test_guest_starts_from_its_zip_alone(cache: Path) -> None:
    """Nothing of the host's Python path is needed, and a host that hangs up ends it."""
    cache.mkdir(parents=True)
    path = facts.guest_zip(cache)
    assert facts.guest_zip(cache) == path
    with zipfile.ZipFile(path) as archive:
        assert "sandbox/box.py" not in archive.namelist()
        assert archive.testzip() is None
    done = subprocess.run(
        [sys.executable, "-I", "-S", path], input=b"garbage that is no hello", capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 70
    assert b"WireError" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("spoiled", [".py", ".pyc"])
def test_guest_of_another_python_starts_all_the_same(cache: Path, tmp_path: Path, spoiled: str) -> None:
    """What is compiled is used by the Python that made it, which needs no source; any other takes the source."""
    cache.mkdir(parents=True)
    place = tmp_path / "guest.zip"
    with zipfile.ZipFile(facts.guest_zip(cache)) as ours, zipfile.ZipFile(place, "w") as theirs:
        for name in ours.namelist():
            kept = name == "__main__.py" or not name.endswith(spoiled)
            theirs.writestr(name, ours.read(name) if kept else b"\0 of another version\r\n")
    argv = [sys.executable, "-I", "-S", place]
    done = subprocess.run(argv, input=b"garbage that is no hello", capture_output=True, timeout=30, check=False)
    assert (done.returncode, b"WireError" in done.stderr) == (70, True), done.stderr


def test_cache_written_by_many_at_once_is_never_half(cache: Path) -> None:
    """Every look finds whole files."""

    def read(_number: int) -> bytes:
        seen = facts.look(SandboxSpec(image="i"))
        return seen.guest.read_bytes() + (seen.accounts / "passwd").read_bytes() + seen.empty_file.read_bytes()

    with ThreadPoolExecutor(8) as threads:
        contents = set(threads.map(read, range(40)))
    assert len(contents) == 1
    assert list(cache.rglob(".*")) == []
