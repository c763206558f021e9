"""Walking a tree: links lead nowhere, secrets stay where they are, odd trees do not break it. The host's walk and the guest's."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sandbox import drafts
from sandbox.drafts import Files, open_below, open_file, tree
from sandbox.errors import SpecError
from sandbox.guest import files, walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with everything in it that a project can have."""
    root = tmp_path / "project"
    for path in ("a.txt", "d/b.txt", "d/e/c.txt", ".git/config", "d/.GIT/config", "sub/.git", "secret/key", ".env", "keep/.env"):
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(path)
    (root / "empty").mkdir()
    (root / "to_folder").symlink_to("d")
    (root / "to_outside").symlink_to(tmp_path)
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)  # a socket's name is short
        server.bind("socket")
        os.chdir(here)
    return root


def descriptors() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_walk_does_not_follow_links_or_show_what_is_withheld(root: Path) -> None:
    """Parents first; links as text; no `.git`, no withheld path, no FIFO, no socket."""
    found = {f.path: f for f in tree(root, ("secret/", ".env"))}
    assert set(found) == {
        *("a.txt", "d", "d/b.txt", "d/e", "d/e/c.txt", "sub", "empty", "keep", "keep/.env"),
        *("to_folder", "to_outside", "dangling", "loop"),
    }
    assert (found["to_folder"].kind, found["to_folder"].target, found["to_folder"].size) == ("link", "d", 0)
    assert (found["a.txt"].kind, found["a.txt"].size) == ("file", 5)
    order = list(found)
    assert all(order.index(p.rpartition("/")[0]) < order.index(p) for p in order if "/" in p)


def test_single_file_is_its_own_tree(root: Path) -> None:
    """One entry with the empty path."""
    assert [(f.path, f.kind, f.size) for f in tree(root / "a.txt")] == [("", "file", 5)]


def test_too_many_files_are_refused_not_walked(root: Path) -> None:
    """With what to do."""
    with pytest.raises(SpecError, match="smaller folder"):
        list(tree(root, max_files=3))


def test_swapped_folder_leads_nowhere(root: Path, tmp_path: Path) -> None:
    """A folder that becomes a link between the listing and the reading is not entered."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.txt").write_text("outside")
    (tmp_path / "outside" / "stray").write_text("outside")
    walk = tree(root)
    seen = [next(walk) for _ in range(3)]
    assert not any(f.path.startswith("d/") for f in seen)
    (root / "d").rename(tmp_path / "moved")
    (root / "d").symlink_to(tmp_path / "outside")
    assert not any(f.path.startswith("d/") for f in walk)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        open_file(root, "d/b.txt")


@pytest.mark.parametrize(
    "path", ["to_folder/b.txt", "to_outside/project/a.txt", "dangling", "loop", "fifo", "d", "nowhere", "../project/a.txt/x"]
)
def test_open_file_does_not_follow_or_hang(root: Path, path: str) -> None:
    """Only a regular file, through real folders; a FIFO does not block."""
    before = descriptors()
    with pytest.raises(OSError, match=r"."):
        open_file(root, path)
    assert descriptors() == before


def test_open_closes_what_it_opened(root: Path) -> None:
    """Only the one descriptor that is returned stays open."""
    before = descriptors()
    fd = open_file(root, "d/e/c.txt")
    assert descriptors() == before + 1
    assert os.read(fd, 100) == b"d/e/c.txt"
    os.close(fd)
    top = os.open(root, os.O_RDONLY)
    os.close(open_below(top, "", os.O_RDONLY))
    os.close(top)
    assert descriptors() == before


def test_a_folder_that_was_kept_open_is_another_one(root: Path, tmp_path: Path) -> None:
    """Files beside each other are read from the folder that was opened, whatever lies there now; a new look follows no link."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.txt").write_text("outside")
    before = descriptors()
    with Files(root) as files:
        os.close(files.open("d/b.txt")[0])
        (root / "d").rename(tmp_path / "moved")
        (root / "d").symlink_to(tmp_path / "outside")
        fd, about = files.open("d/b.txt")
        assert (os.read(fd, 100), about.st_size) == (b"d/b.txt", 7)
        os.close(fd)
        os.close(files.open("a.txt")[0])
        with pytest.raises(OSError, match=r"Not a directory|symbolic"):
            files.open("d/b.txt")
    assert descriptors() == before


def test_abandoned_walk_closes_its_folders(root: Path) -> None:
    """A caller that stops early leaks nothing."""
    before = descriptors()
    walk = tree(root)
    next(walk)
    walk.close()
    assert descriptors() == before


def test_vanishing_file_does_not_stop_a_walk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed meanwhile is left out."""
    walk = tree(root)
    first = next(walk)
    for name in ("a.txt", "dangling"):
        if first.path != name:
            (root / name).unlink()
    assert {f.path for f in walk} >= {"d", "d/b.txt"}


# -- the guest's walk ------------------------------------------------------------------------------------------------


def test_guest_walk_does_not_follow_links(root: Path) -> None:
    """Everything below, `.git` too; FIFOs and sockets are not there."""
    found = dict(walk.walk(str(root)))
    assert "to_folder/b.txt" not in found
    assert found["to_folder"][0] == "link"
    assert found["to_folder"][6] == "d"
    assert ".git/config" in found
    assert not {"fifo", "socket"} & set(found)


def test_guest_walk_of_what_is_no_folder(root: Path) -> None:
    """A file is one entry, anything else and nothing are none."""
    assert [p for p, _ in walk.walk(str(root / "a.txt"))] == [""]
    assert list(walk.walk(str(root / "fifo"))) == []
    assert list(walk.walk(str(root / "nowhere"))) == []


def test_guest_walk_survives_a_tree_that_changes(root: Path) -> None:
    """Folders and files that vanish while it walks are left out."""
    closed: set[str] = set()
    steps = walk.walk(str(root), closed)
    next(steps)
    for place in (root / "d" / "e", root / "d"):
        for inner in place.iterdir():
            if inner.is_file():
                inner.unlink()
    (root / "d" / "e").rmdir()
    assert not {"d/b.txt", "d/e"} & {p for p, _ in steps}


def test_guest_walk_of_a_deep_tree(tmp_path: Path) -> None:
    """Depth costs no recursion."""
    place = tmp_path
    for _ in range(500):
        place = place / "d"
    place.mkdir(parents=True)
    assert len(list(walk.walk(str(tmp_path)))) == 500
    assert len(list(drafts.tree(tmp_path))) == 500


def test_guest_remove_does_not_follow_links(root: Path, tmp_path: Path) -> None:
    """What a link names stays."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("x")
    (root / "d" / "way").symlink_to(tmp_path / "outside")
    files.remove(str(root / "d"))
    files.remove(str(root / "to_outside"))
    files.remove(str(root / "nowhere"))
    assert not (root / "d").exists()
    assert (tmp_path / "outside" / "x").read_text() == "x"
    assert root.exists()
