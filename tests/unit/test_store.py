"""The store: what is put is what is got, by its hash, whoever else writes at the same time."""

from __future__ import annotations

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox.errors import SnapshotError
from sandbox.snapshot import Entry, Snapshot
from sandbox.store import Store

FILE = Entry(root="/p", path="a", kind="file", mode=0o644, size=1, sha256=hashlib.sha256(b"a").hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    return Store(tmp_path / "store")


def stray(store: Store) -> list[str]:
    """Files that no name leads to."""
    return [str(p) for p in store.folder.rglob(".*")]


def test_blob_is_not_changed_or_writable(store: Store) -> None:
    """The same bytes under their own hash, read-only, once."""
    content = bytes(range(256)) * 9
    name = store.put(content)
    assert name == hashlib.sha256(content).hexdigest()
    assert store.put(content) == name
    assert store.get(name) == content
    assert stat.S_IMODE(store.path(name).stat().st_mode) == 0o444
    assert store.lacking([name, "0" * 64]) == {"0" * 64}
    assert stray(store) == []


@pytest.mark.parametrize(
    "name", ["", "a", "../../etc/passwd", "A" * 64, "g" * 64, "0" * 63, "0" * 65, "0" * 63 + "\n", "../" + "0" * 61, "é" * 64]
)
def test_bad_name_does_not_become_a_path(store: Store, name: str) -> None:
    """Only 64 lower-case hex digits are a name, of blobs and of snapshots."""
    for call in (store.path, store.has, store.get, store.get_snapshot):
        with pytest.raises(SnapshotError):
            call(name)


def test_missing_blob_is_a_typed_error(store: Store) -> None:
    """Removed by hand: said so."""
    with pytest.raises(SnapshotError, match="missing"):
        store.get("0" * 64)
    with pytest.raises(SnapshotError, match="missing"):
        store.get_snapshot("0" * 64)


def test_interrupted_write_leaves_nothing(store: Store) -> None:
    """A blob that did not arrive whole does not exist under any name."""
    with pytest.raises(ZeroDivisionError), store.writer() as writer:  # noqa: PT012 - the block is what is tested
        writer.write(b"half")
        raise ZeroDivisionError
    assert not store.has(hashlib.sha256(b"half").hexdigest())
    assert stray(store) == []


def test_manifest_survives_its_round_trip(store: Store) -> None:
    """Also with names that are not UTF-8."""
    snapshot = Snapshot(entries=(FILE, Entry(root="/p", path="\udcff\nx", kind="link", target="\udcfe")))
    assert store.put_snapshot(snapshot) == snapshot.id
    assert store.put_snapshot(snapshot) == snapshot.id
    again = store.get_snapshot(snapshot.id)
    assert again.id == snapshot.id
    assert set(again.entries) == set(snapshot.entries)
    assert stray(store) == []


@pytest.mark.parametrize(
    "alter",
    [
        lambda raw: raw.replace(b'"a"', b'"b"'),
        lambda raw: raw + raw,
        lambda _raw: b"",
        lambda raw: raw[:-5],
        lambda raw: b"\xff" + raw,
        lambda _raw: b"[" * 100_000,
        lambda _raw: b'["/p", "\\ud800", "file", 1, 1, "", ""]\n',
        lambda _raw: b'["/p", "../x", "file", 1, 1, "", ""]\n',
        lambda _raw: b"null\n",
    ],
    ids=["edited", "doubled", "emptied", "cut", "not-ascii", "deep", "surrogate", "dotdot", "null"],
)
def test_altered_manifest_is_not_accepted(store: Store, alter) -> None:
    """Whatever was done to it on disk is one typed error."""
    name = store.put_snapshot(Snapshot(entries=(FILE,)))
    path = store.folder / "snapshots" / name
    path.write_bytes(alter(path.read_bytes()))
    with pytest.raises(SnapshotError):
        store.get_snapshot(name)


def test_writers_at_the_same_time_do_not_harm_each_other(store: Store) -> None:
    """Same and different contents from many threads and two Store values."""
    other = Store(store.folder)
    contents = [bytes([n % 5]) * 50_000 for n in range(60)]
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda pair: (store if pair[0] % 2 else other).put(pair[1]), enumerate(contents)))
    assert [store.get(n) for n in names] == contents
    assert stray(store) == []
