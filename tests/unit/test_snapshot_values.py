"""Snapshot values: what a manifest may hold, case by case."""

from __future__ import annotations

import json

import pytest

from sandbox.errors import SnapshotError
from sandbox.snapshot import Entry, Snapshot, check_path, is_git_name

GOOD = ["/p", "a", "file", 0o644, 1, "0" * 64, ""]


def manifest(**changes: object) -> str:
    """One row, altered."""
    row = list(GOOD)
    for place, value in changes.items():
        row[int(place[1:])] = value
    return json.dumps(row) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[]",
        "{}",
        "7",
        manifest(_1="/abs"),
        manifest(_1="a/../b"),
        manifest(_1="a//b"),
        manifest(_1="a/"),
        manifest(_1="./a"),
        manifest(_1="a/.git/b"),
        manifest(_1="a\0"),
        manifest(_1="\ud800"),
        manifest(_1="x" * 5000),
        manifest(_2="device"),
        manifest(_2="fifo"),
        manifest(_3="644"),
        manifest(_4=None),
        manifest(_6="a\0b"),
        manifest(_6="\ud800"),
        "[" * 100_000,
    ],
)
def test_row_that_is_no_entry_is_refused(text: str) -> None:
    """With SnapshotError, whatever is wrong with it."""
    with pytest.raises(SnapshotError):
        Snapshot.from_json(text)


def test_special_bits_are_dropped() -> None:
    """setuid, setgid, sticky."""
    (entry,) = Snapshot.from_json(manifest(_3=0o107755)).entries
    assert entry.mode == 0o755


@pytest.mark.parametrize(
    "name",
    [
        ".git",
        ".GIT",
        ".Git",
        ".git.",
        ".git ",
        ".git. .",
        "git~1",
        "GIT~1",
        "git~1 .",
        ".g\u200cit",
        "\ufeff.git",
        ".g\u00adit",
        ".gi\ufe0ft",
        "\U000e0001.git",
        ".git\u200b. ",
        ".git::$INDEX_ALLOCATION",
        ".GIT:stream",
        "git~1:x",
        ".git\\hooks",
        "a\\.git",
        "a\\git~1\\config",
    ],
)
def test_spelling_of_git_is_recognised(name: str) -> None:
    """As file systems fold names onto each other."""
    assert is_git_name(name)
    for path in (name, f"{name}/config", f"a/{name}", f"a/{name}/hooks/x"):
        with pytest.raises(SnapshotError, match="git folder"):
            check_path(path)
        assert check_path(path, git=True) == path


@pytest.mark.parametrize(
    "name", ["git", ".gitignore", ".gitmodules", ".github", "a.git", "git~2", "..git", "", ":.git", "\\git", ".g.it", "\u200b"]
)
def test_name_that_only_resembles_git_is_kept(name: str) -> None:
    """An agent may write `.gitignore`."""
    assert not is_git_name(name)
    assert check_path(name) == name


def test_empty_snapshot_has_an_id_and_a_manifest() -> None:
    """An answer without changes."""
    empty = Snapshot(entries=())
    assert Snapshot.from_json(empty.to_json()) == empty
    assert len(empty.id) == 64


def test_what_was_left_out_does_not_change_the_identity() -> None:
    """It is for the record."""
    entry = Entry(root="/p", path="a", kind="dir", mode=0o755)
    assert Snapshot(entries=(entry,)).id == Snapshot(entries=(entry,), left_out=("/p/.env",)).id


@pytest.mark.parametrize("entries", [(), (Entry(root="/p", path="a", kind="dir", mode=0o755),)])
def test_what_was_left_out_is_not_lost_in_a_manifest(entries: tuple[Entry, ...]) -> None:
    """Read back as it was written, names that are not UTF-8 included."""
    snapshot = Snapshot(entries=entries, left_out=("/p/.env", "/p/\udcff", "/p/new\nline"))
    assert Snapshot.from_json(snapshot.to_json()) == snapshot


@pytest.mark.parametrize("row", [{"left_out": 7}, {"left_out": [7]}, {"left_out": ["a\0"]}, {"left_out": []}, {"other": ["a"]}])
def test_odd_list_of_what_was_left_out_is_refused(row: object) -> None:
    """With SnapshotError; also one that does not come last."""
    with pytest.raises(SnapshotError):
        Snapshot.from_json(json.dumps(row) + "\n")
    with pytest.raises(SnapshotError):
        Snapshot.from_json(json.dumps({"left_out": ["/p/.env"]}) + "\n" + manifest())
