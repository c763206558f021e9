"""Patches: what people read must be what `git apply` does."""

from __future__ import annotations

import os
import shutil
import subprocess
from difflib import unified_diff
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sandbox.base import Base, Original
from sandbox.patch import Patch, _compare, _Patience, _Side, prefixes, render
from sandbox.snapshot import Entry, Snapshot
from sandbox.store import Store

ROOT = "/project"


class Tree:
    """A project as it was and the snapshot that changes it."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store")
        self.root = folder / "project"
        self.root.mkdir()
        self.entries: list[Entry] = []

    def had(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """The project holds this file."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(mode)

    def gets(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """The snapshot writes this file."""
        sha = self.store.put(content)
        self.entries.append(Entry(root=str(self.root), path=path, kind="file", mode=mode, size=len(content), sha256=sha))

    def links(self, path: str, target: str) -> None:
        """The snapshot makes this link."""
        self.entries.append(Entry(root=str(self.root), path=path, kind="link", target=target))

    def loses(self, path: str) -> None:
        """The snapshot removes this path."""
        self.entries.append(Entry(root=str(self.root), path=path, kind="gone"))

    def patch(self, *, binary: bool = False, **limit: float) -> Patch:
        """From what was to what will be."""
        base = Base.take([self.root], self.store)
        snapshot = Snapshot(entries=tuple(self.entries))
        return render(snapshot, original=base.original, content=self.store.get, roots=[str(self.root)], binary=binary, **limit)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An empty project."""
    return Tree(tmp_path)


def test_a_patch_does_with_git_what_the_answer_does(tree: Tree) -> None:
    """Changed, added, deleted, modes, links, no last newline, odd names, binary and large files: `git apply` gives the same."""
    tree.had("code.py", b"a\nb\nc\n" * 20)
    tree.gets("code.py", b"a\nb\nc\n" * 10 + b"new\n" + b"a\nb\nc\n" * 10)
    tree.had("no newline", b"one\ntwo")
    tree.gets("no newline", b"one\nthree")
    tree.had("gone/deep.txt", b"x\n")
    tree.loses("gone/deep.txt")
    tree.gets('fresh/ümläut "quoted".txt', b"\xc3\xbc\n\x0c\xe2\x80\xa8same line\n")
    tree.gets("empty", b"")
    tree.had("tool.sh", b"#!/bin/sh\n")
    tree.gets("tool.sh", b"#!/bin/sh\n", 0o755)
    tree.links("link", "code.py")
    tree.had("becomes-link", b"text\n")
    tree.links("becomes-link", "empty")
    tree.had("image.bin", b"\0old")
    tree.gets("image.bin", b"\0new" * 100)
    tree.gets("large.txt", b"line\n" * 400_000)
    subprocess.run(["git", "init", "-q", "."], cwd=tree.root, check=True)
    patch = tree.patch(binary=True)
    assert all(change.whole for change in patch.changes)
    done = subprocess.run(["git", "apply", "-"], input=patch.text.encode(), cwd=tree.root, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for entry in tree.entries:
        place = tree.root / entry.path
        match entry.kind:
            case "gone":
                assert not os.path.lexists(place)
            case "link":
                assert place.readlink() == Path(entry.target)
            case _:
                assert place.read_bytes() == tree.store.get(entry.sha256)
                assert bool(place.stat().st_mode & 0o100) == bool(entry.mode & 0o100)


def test_lines_are_counted_as_people_count_them(tree: Tree) -> None:
    """Added and removed lines per file and in all; header lines do not count."""
    tree.had("a.txt", b"--- old\nkeep\n")
    tree.gets("a.txt", b"+++ new\nkeep\nmore\n")
    tree.gets("b.txt", b"1\n2\n")
    patch = tree.patch()
    assert [(c.path, c.kind, c.added, c.removed) for c in patch.changes] == [
        ("a.txt", "changed", 2, 1),
        ("b.txt", "added", 2, 0),
    ]
    assert (patch.added, patch.removed) == (4, 1)


def test_binary_and_huge_files_are_named_not_shown(tree: Tree) -> None:
    """No bytes of them in the text, and no time spent on comparing them."""
    tree.had("image.bin", b"\0old")
    tree.gets("image.bin", b"\0new")
    tree.gets("huge.txt", b"line\n" * 400_000)
    tree.gets("latin.txt", b"caf\xe9\n")
    patch = tree.patch()
    assert [(c.path, c.binary, c.whole) for c in patch.changes] == [
        *(("huge.txt", True, False), ("image.bin", True, False), ("latin.txt", True, False)),
    ]
    assert "Binary files a/image.bin and b/image.bin differ" in patch.text
    assert len(patch.text) < 1000


def test_a_patch_with_a_limit_passes_for_a_whole_one(tree: Tree) -> None:
    """What does not fit is not read; it is named, with the hash that tells it from another, and git refuses such a patch."""
    tree.had("a.txt", b"old\n")
    tree.gets("a.txt", b"new\n")
    tree.gets("b.txt", b"x" * 100)
    tree.had("c.sh", b"y" * 50)
    tree.gets("c.sh", b"y" * 50, 0o755)
    tree.gets("d.txt", b"12\n")
    whole, cut = tree.patch(limit_bytes=211), tree.patch(limit_bytes=20)
    assert whole == tree.patch()
    assert tree.patch(limit_bytes=210) != whole
    assert [(c.path, c.added, c.binary) for c in cut.changes] == [
        ("a.txt", 1, False),
        ("b.txt", 0, True),
        ("c.sh", 0, True),
        ("d.txt", 1, False),
    ]
    assert cut.changes[1].sha256 == tree.entries[1].sha256
    assert "+new" in cut.text
    assert "old mode 100644\nnew mode 100755\n" in cut.text
    assert "x" * 100 not in cut.text
    subprocess.run(["git", "init", "-q", "."], cwd=tree.root, check=True)
    done = subprocess.run(["git", "apply", "-"], input=cut.text.encode(), cwd=tree.root, capture_output=True, check=False)
    assert done.returncode != 0
    assert (tree.root / "a.txt").read_text() == "old\n", "not even a part of it"


def test_a_patch_takes_hours(tree: Tree) -> None:
    """Thousands of repeated lines in another order are shown as replaced, and git applies that; small ones are compared."""
    lines = [f"{number % 97}{number % 89 % 7}\n" for number in range(100_000)]
    tree.had("shuffled.txt", "".join(["first\n", *lines, "last\n"]).encode())
    tree.gets("shuffled.txt", "".join(["first\n", *sorted(lines), "last\n"]).encode())
    tree.had("small.txt", b"1\n2\n3\n")
    tree.gets("small.txt", b"1\n3\n")
    patch = tree.patch()
    assert patch.text.count("@@ -1,") == 2
    subprocess.run(["git", "init", "-q", "."], cwd=tree.root, check=True)
    subprocess.run(["git", "apply", "-"], input=patch.text.encode(), cwd=tree.root, capture_output=True, check=True)
    assert (tree.root / "shuffled.txt").read_bytes() == tree.store.get(tree.entries[0].sha256)
    assert (tree.root / "small.txt").read_bytes() == b"1\n3\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(before=st.text("ab\n", max_size=30), after=st.text("ab\n", max_size=30))
def test_a_file_shown_as_replaced_is_another(tree: Tree, before: str, after: str) -> None:
    """Whatever is the same at both ends, and however the last line ends, git makes one of the other."""
    assume(before != after and before and after)
    place = tree.root / "x"
    place.write_text(before)
    had = _Side(mode="100644", identity="1", content=before.encode())
    will = _Side(mode="100644", identity="2", content=after.encode())
    text, _ = _compare("x", had, will, binary=False, patience=_Patience(steps=-1))
    subprocess.run(["git", "apply", "-"], input=text.encode(), cwd=tree.root, check=True)
    assert place.read_text() == after


def test_files_that_only_look_changed_are_not_changes(tree: Tree) -> None:
    """The same bytes and mode: nothing to show, nothing to count."""
    tree.had("same.txt", b"same\n")
    tree.gets("same.txt", b"same\n")
    tree.loses("never-there")
    assert tree.patch() == Patch(text="", changes=())


def test_a_project_of_several_roots_names_them() -> None:
    """One root needs no name; several get their last one; equal ones their whole path."""
    assert prefixes(["/a/x"]) == {"/a/x": ""}
    assert prefixes(["/a/x", "/a/y"]) == {"/a/x": "x/", "/a/y": "y/"}
    assert prefixes(["/a/x", "/b/x"]) == {"/a/x": "a/x/", "/b/x": "b/x/"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(text=st.text(st.sampled_from("a\n\r\f +-"), max_size=12), gone=st.booleans())
def test_a_new_or_removed_file_reads_as_difflib_has_it(tree: Tree, text: str, *, gone: bool) -> None:
    """The short way for whole files gives the same bytes and figures, whatever its lines are."""
    lines = [f"{line}\n" for line in text.split("\n")[:-1]] + ([last] if (last := text.rsplit("\n", maxsplit=1)[-1]) else [])
    sides = (lines, [], "a/x", "/dev/null") if gone else ([], lines, "/dev/null", "b/x")
    diff = [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in unified_diff(*sides)]
    entry = Entry(
        root=ROOT, path="x", kind="gone" if gone else "file", mode=0o644, size=len(text), sha256=tree.store.put(text.encode())
    )
    had = Original(kind="file", mode=0o644, size=len(text), sha256=entry.sha256) if gone else Original(kind="absent")
    patch = render(Snapshot(entries=(entry,)), original=lambda _r, _p: had, content=tree.store.get, roots=[ROOT])
    assert patch.text.partition(" mode 100644\n")[2] == "".join(diff)
    assert (patch.added, patch.removed) == ((0, len(lines)) if gone else (len(lines), 0))


def test_a_link_in_the_project_is_never_followed(tree: Tree, tmp_path: Path) -> None:
    """The base reads a link as text, and finds nothing behind a linked folder."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tree.root / "link").symlink_to(tmp_path / "outside" / "secret")
    (tree.root / "folder").symlink_to(tmp_path / "outside")
    base = Base.take([tree.root], tree.store)
    assert base.original(str(tree.root), "link").expected == f"link:{tmp_path}/outside/secret"
    assert base.original(str(tree.root), "folder/secret").expected == ""


def test_a_file_edited_after_the_listing_is_known_as_drifted(tree: Tree) -> None:
    """Edited, removed, replaced or added since the listing: each shows; an untouched one does not."""
    for name in ("edited", "removed", "replaced", "same"):
        tree.had(name, b"1\n")
    (tree.root / "folder").mkdir()
    base = Base.take([tree.root], tree.store)
    (tree.root / "edited").write_text("22\n")
    (tree.root / "removed").unlink()
    shutil.move(tree.root / "replaced", tree.root / "folder" / "moved")
    (tree.root / "replaced").symlink_to("same")
    (tree.root / "added").write_text("")
    names = ("edited", "removed", "replaced", "added", "same", "folder", "not there")
    drifted = [name for name in names if base.original(str(tree.root), name).drifted]
    assert drifted == ["edited", "removed", "replaced", "added"]
    again = Base.from_json([tree.root], tree.store, base.originals_json())
    assert [name for name in names if again.original(str(tree.root), name).drifted] == drifted
