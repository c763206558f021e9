"""`/peers`: complete or absent, never writable, never a way out."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from massgen.coordination.peers import Peers
from massgen.events.types import Verified
from sandbox.patch import Patch
from sandbox.snapshot import Entry, Snapshot
from sandbox.store import Store


def test_an_answer_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """Nothing is seen before `publish`; then text, patch and files are there, read-only, links as text."""
    store = Store(tmp_path / "store")
    peers = Peers(tmp_path / "peers", store)
    plain, tool = store.put(b"text\n"), store.put(b"#!/bin/sh\n")
    snapshot = Snapshot(
        entries=(
            Entry(root="/p", path="a/plain.txt", kind="file", mode=0o644, size=5, sha256=plain),
            Entry(root="/p", path="tool.sh", kind="file", mode=0o755, size=10, sha256=tool),
            Entry(root="/p", path="link", kind="link", target="/etc/passwd"),
            Entry(root="/p", path="old", kind="gone"),
            Entry(root="/p", path="a", kind="dir", mode=0o700),
        )
    )
    peers.prepare("agent1.1", "the text", snapshot, Patch(text="diff", changes=()))
    assert list(peers.folder.iterdir()) == []
    peers.publish("agent1.1")
    shown = peers.folder / "agent1.1"
    files = shown / "files" / "p"
    assert (shown / "answer.md").read_text() == "the text"
    assert (shown / "changes.patch").read_text() == "diff"
    assert (files / "a" / "plain.txt").samefile(store.path(plain)), "hard-linked, not copied"
    assert (files / "tool.sh").stat().st_mode & 0o777 == 0o555
    assert store.path(tool).stat().st_mode & 0o777 == 0o444, "the blob keeps its mode"
    assert not (files / "link").is_symlink()
    assert (files / "link").read_text() == "link to /etc/passwd\n"
    assert not (files / "old").exists()
    assert {p.stat().st_mode & 0o777 for p in shown.rglob("*") if p.is_dir()} == {0o755}


def test_a_verdict_joins_its_answer_and_others_go_nowhere(tmp_path: Path) -> None:
    """`verify.json` lies beside the answer; a verdict on `base` or on nothing leaves no file."""
    peers = Peers(tmp_path / "peers", Store(tmp_path / "store"))
    peers.prepare("agent1.1", "", Snapshot(entries=()), Patch(text="", changes=()))
    peers.publish("agent1.1")
    for answer in ("agent1.1", "base", "final"):
        peers.add_verdict(Verified(answer=answer, ok=True, summary="pass"))
    assert '"summary": "pass"' in (peers.folder / "agent1.1" / "verify.json").read_text()
    assert [p.name for p in peers.folder.iterdir()] == ["agent1.1"]


def test_a_cancelled_try_does_not_block_the_next(tmp_path: Path) -> None:
    """An answer prepared twice, because the first try was dropped, shows the second."""
    peers = Peers(tmp_path / "peers", Store(tmp_path / "store"))
    for text in ("first", "second"):
        peers.prepare("agent1.1", text, Snapshot(entries=()), Patch(text="", changes=()))
    peers.publish("agent1.1")
    assert (peers.folder / "agent1.1" / "answer.md").read_text() == "second"


def shown(tmp_path: Path, store: Store, name: str) -> Path:
    """A file of two names, in a new folder of peers."""
    peers = Peers(tmp_path / name, store)
    sha256 = store.put(b"content")
    entries = tuple(Entry(root="/p", path=path, kind="file", mode=0o644, size=7, sha256=sha256) for path in ("a", "b"))
    peers.prepare("agent1.1", "text", Snapshot(entries=entries), Patch(text="", changes=()))
    peers.publish("agent1.1")
    return peers.folder / "agent1.1/files/p"


def test_a_content_of_too_many_names_cannot_be_shown(tmp_path: Path) -> None:
    """A file system has a greatest number of links (ext4: 65,000); from there on there are copies, as read-only."""
    store = Store(tmp_path / "store")
    blob = store.path(store.put(b"content"))
    links = tmp_path / "links"
    links.mkdir()
    with contextlib.suppress(OSError):
        for number in range(70_000):
            os.link(blob, links / str(number))
    if blob.stat().st_nlink > 70_000:
        pytest.skip("this file system takes more links than anybody waits for")
    files = shown(tmp_path, store, "peers")
    assert [(files / n).read_bytes() for n in "ab"] == [b"content"] * 2
    assert [(files / n).stat().st_mode & 0o777 for n in "ab"] == [0o444] * 2
    assert not (files / "a").samefile(blob)


def test_a_store_on_another_disk_cannot_be_shown(tmp_path: Path) -> None:
    """There are no links from one file system to another (EXDEV): copies."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write on")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        files = shown(tmp_path, Store(Path(folder)), "peers")
        assert [(files / n).read_bytes() for n in "ab"] == [b"content"] * 2
        assert [(files / n).stat().st_mode & 0o777 for n in "ab"] == [0o444] * 2
