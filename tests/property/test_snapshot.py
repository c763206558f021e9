"""Paths and manifests out of a hostile container: refused, or harmless; and a snapshot is known by its content alone."""

from __future__ import annotations

import os
import random
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import SnapshotError
from sandbox.snapshot import MAX_PATH_BYTES, Entry, Snapshot, check_path, check_target, is_git_name

ANY = st.text(st.characters() | st.characters(categories=("Cs",)), max_size=30)
PART = (
    st.sampled_from(
        [
            "a",
            "b",
            "..",
            ".",
            "",
            ".git",
            ".GIT",
            "git~1",
            ".git. ",
            ".g\u200cit",
            "\0",
            "\udcff",
            "\ud800",
            "...",
            " ",
            "x" * 5000,
        ]
    )
    | ANY
)
PATH = st.lists(PART, min_size=1, max_size=5).map("/".join) | ANY
SAFE = st.lists(
    st.text("ab.\n\udcff é", min_size=1, max_size=5).filter(lambda p: p not in (".", "..")), min_size=1, max_size=4
).map("/".join)
ENTRIES = st.lists(
    st.builds(
        Entry,
        root=st.sampled_from(["/p", "/workspace"]),
        path=SAFE,
        kind=st.sampled_from(["file", "link", "dir", "gone"]),
        mode=st.integers(0, 0o777),
        size=st.integers(0, 10**9),
        sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
        target=SAFE,
    ),
    max_size=8,
    unique_by=lambda e: (e.root, e.path),
)


@given(PATH)
def test_path_is_refused_or_stays_below_its_root(path: str) -> None:
    """Whatever the text: SnapshotError, or a relative path that a file system takes and that leads nowhere else."""
    try:
        assert check_path(path) == path
    except SnapshotError:
        return
    if not path:
        return
    pure = PurePosixPath(path)
    assert not pure.is_absolute()
    assert str(pure) == path
    assert ".." not in pure.parts
    assert not any(is_git_name(p) for p in pure.parts)
    assert "\0" not in path
    assert len(os.fsencode(path)) <= MAX_PATH_BYTES
    assert os.path.normpath("/root/" + path).startswith("/root/")


@given(PATH)
def test_git_exception_allows_nothing_but_git(path: str) -> None:
    """`git=True` lets `.git` through, and not one other thing."""
    try:
        check_path(path, git=True)
    except SnapshotError:
        return
    assert not path or os.path.normpath("/root/" + path).startswith("/root/")
    assert "\0" not in path
    os.fsencode(path)


@given(PATH)
def test_target_is_refused_or_can_be_a_link(target: str) -> None:
    """No NUL, nothing that cannot be encoded, no more than the limit."""
    try:
        check_target(target)
    except SnapshotError:
        return
    assert b"\0" not in os.fsencode(target)


@given(st.text(max_size=3), st.sampled_from([".git", "git~1"]), st.randoms())
def test_no_spelling_of_git_gets_through(tail: str, name: str, rnd: random.Random) -> None:
    """Case, ignorable characters, trailing dots and spaces."""
    odd = "".join(rnd.choice(("", "\u200c", "\ufeff", "\u206a")) + rnd.choice((c.upper(), c.lower())) for c in name)
    assert is_git_name(odd + rnd.choice(("", ".", " ", ". .")))
    assert not is_git_name("x" + name)
    assert not is_git_name(name + "ignore")
    assert not is_git_name(name + "x" + tail)


@given(ENTRIES, st.randoms())
def test_id_does_not_depend_on_order(entries: list[Entry], rnd: random.Random) -> None:
    """The same entries in any order are the same snapshot, and its text the same text."""
    one = Snapshot(entries=tuple(entries))
    rnd.shuffle(entries)
    other = Snapshot(entries=tuple(entries))
    assert one.id == other.id
    assert one.to_json() == other.to_json()


@given(ENTRIES, ENTRIES)
def test_different_content_does_not_share_an_id(one: list[Entry], other: list[Entry]) -> None:
    """Equal ids mean equal entries."""
    assert (Snapshot(entries=tuple(one)).id == Snapshot(entries=tuple(other)).id) == (set(one) == set(other))


@given(ENTRIES)
def test_manifest_reads_back_what_was_written(entries: list[Entry]) -> None:
    """Every field, in text that is one ASCII line per entry."""
    snapshot = Snapshot(entries=tuple(entries))
    text = snapshot.to_json()
    assert text.isascii()
    assert text.count("\n") == len(entries)
    again = Snapshot.from_json(text)
    assert set(again.entries) == set(entries)
    assert again.id == snapshot.id


@given(ENTRIES)
def test_roots_do_not_mix(entries: list[Entry]) -> None:
    """`under` and `without` split a snapshot in two, nothing lost."""
    snapshot = Snapshot(entries=tuple(entries), left_out=("/p/x",))
    assert set(snapshot.under("/p")) | set(snapshot.without("/p").entries) == set(entries)
    assert not snapshot.without("/p").under("/p")


@given(ANY | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_garbage_manifest_is_a_typed_error(text: str) -> None:
    """A snapshot or SnapshotError."""
    try:
        Snapshot.from_json(text)
    except SnapshotError:
        return


@given(ENTRIES, st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 127)), max_size=3), st.integers(0, 5000))
def test_manifest_with_some_bytes_changed_is_a_typed_error_or_a_clean_one(entries: list[Entry], flips: list, cut: int) -> None:
    """What a damaged disk or an editor makes of it: SnapshotError, or entries that keep every rule."""
    text = list(Snapshot(entries=tuple(entries)).to_json())
    for place, by in flips:
        if text:
            text[place % len(text)] = chr(by)
    try:
        found = Snapshot.from_json("".join(text[: max(cut, 1)]))
    except SnapshotError:
        return
    for entry in found.entries:
        assert check_path(entry.path) == entry.path
        assert 0 <= entry.mode <= 0o777
        assert entry.size >= 0
    assert Snapshot.from_json(found.to_json()).id == found.id
