"""The store: what is put is what is got, by its hash, whoever else writes at the same time."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox.blobs import TOGETHER
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


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_intake_of_many_long_contents_does_not_run_out_of_descriptors(store: Store) -> None:
    """They are kept a hundred or so at a time, each with the holes that it came with."""
    names: list[str] = []
    before = most = _descriptors()
    with store.intake() as intake:
        for number in range(3 * TOGETHER):
            intake.begin()
            intake.write(b"%d" % number, b"!")
            intake.skip_to(1 << 20)
            names.append(intake.end(""))
            most = max(most, _descriptors())
        intake.flush()
    assert most < before + TOGETHER + 16
    assert [store.get(name) for name in names[::100]] == [(b"%d!" % n).ljust(1 << 20, b"\0") for n in range(0, len(names), 100)]


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


def test_another_account_reads_what_a_private_project_held(tmp_path: Path) -> None:
    """Nobody else gets into a store: not into a new one, nor into one that was open before."""
    folder = tmp_path / "open" / "store"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    for store in (Store(folder), Store(tmp_path / "fresh")):
        assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


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


def test_altered_blob_is_not_used(store: Store) -> None:
    """Whatever a disk or a person made of it, of the same length or not: a typed error, read whole or in pieces."""
    content = b"x" * 600_000
    name = store.put(content)
    place = store.path(name)
    with store.blob(name, len(content)) as blob:
        assert b"".join(blob.pieces()) == content
    place.chmod(0o600)
    place.write_bytes(content[:-1] + b"y")
    with pytest.raises(SnapshotError, match="altered"):
        store.get(name)
    with store.blob(name, len(content)) as blob:
        given = []
        with pytest.raises(SnapshotError, match="altered"):
            given.extend(blob.pieces())
    assert len(b"".join(given)) < len(content), "nobody gets the end of a wrong content"
    place.write_bytes(content[:-1])
    with pytest.raises(SnapshotError, match="599999 bytes"):
        store.blob(name, len(content))


def test_holes_take_no_room(store: Store) -> None:
    """What is skipped counts as zeros, for the hash and for who reads it."""
    content = bytes(5 << 20) + b"inner" + bytes(5 << 20)
    with store.writer() as writer:
        writer.skip(5 << 20)
        writer.write(b"inner")
        writer.skip(5 << 20)
    assert store.get(writer.sha256) == content
    assert store.path(writer.sha256).stat().st_blocks * 512 < 100_000
    with store.blob(writer.sha256, len(content)) as blob:
        assert blob.data_bytes < 100_000
        assert b"inner" in b"".join(blob.pieces())


def test_contents_that_arrive_together_are_all_there(store: Store) -> None:
    """Also the same one twice, and one that was there; of a wrong one and those that wait with it nothing stays."""
    contents = [str(n % 250).encode() for n in range(300)]
    store.put(contents[0])
    with store.intake() as intake:
        intake.whole((hashlib.sha256(c).hexdigest(), [c]) for c in contents)
        intake.flush()
    assert {store.get(hashlib.sha256(c).hexdigest()) for c in contents} == set(contents)
    with store.intake() as intake, pytest.raises(SnapshotError, match="hash"):
        intake.whole([(hashlib.sha256(b"good").hexdigest(), [b"good"]), (hashlib.sha256(b"bad").hexdigest(), [b"BAD"])])
    assert not store.has(hashlib.sha256(b"bad").hexdigest())
    assert not stray(store)


FULL = """
import hashlib, os, sys
from pathlib import Path
from sandbox import Entry, Snapshot, SandboxError, Store, StoreError
store = Store(Path(sys.argv[1]))
many = Snapshot(entries=tuple(Entry(root="/p", path=str(n), kind="dir") for n in range(20_000)))
def together():
    with store.intake() as intake:
        for content in (os.urandom(50_000) for _ in range(40)):
            intake.whole([(hashlib.sha256(content).hexdigest(), [content])])
for work in (lambda: store.put(os.urandom(1 << 20)), lambda: store.put_snapshot(many), together):
    try:
        work()
    except StoreError as error:
        assert isinstance(error, SandboxError) and error.fault == "host" and "No space left" in str(error), error
        assert not list(store.folder.rglob(".*")), "left behind"
    else:
        sys.exit("it fitted")
store.put(b"there is room again")
print("typed")
"""


def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A file system without room: StoreError, the host's fault, no file half written, and it goes on when there is room."""
    script = 'mount -t tmpfs -o size=512k none "$1" && exec "$2" -c "$3" "$1"'
    argv = ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("no file system of its own can be mounted here")
    assert (done.stdout, done.stderr) == ("typed\n", "")
