"""Snapshots: exactly what changed, by content, whatever an agent leaves behind; and one restores what it was taken from."""

from __future__ import annotations

import os
import secrets
import time

import anyio
import anyio.from_thread
import pytest

from sandbox import WORKSPACE, Change, Entry, GuestError, Mount, Sandbox, Snapshot, SnapshotError, Store
from sandbox.blobs import Intake
from tests.support.boxes import Boxes, content, processes, sha, state

FILES = {"keep.txt": "keep", "edit.txt": "old", "gone.txt": "gone", "d/one": "1", "d/two": "2", "run.sh": "#!/bin/sh\n"}


def rows(snapshot: Snapshot, root: object) -> dict[str, tuple]:
    """The entries below a root, as short tuples."""
    return {e.path: (e.kind, oct(e.mode), e.sha256, e.target) for e in snapshot.under(str(root))}


async def sh(box: Sandbox, text: str, cwd: object = None) -> None:
    """Run a script that must succeed."""
    outcome = await box.run(["sh", "-ec", text], cwd=None if cwd is None else str(cwd))
    assert outcome.ok, outcome.stderr.text


async def test_nothing_changed_is_an_empty_snapshot(boxes: Boxes, store: Store) -> None:
    """Reading, building caches elsewhere and looking around leave no entry."""
    root = boxes.project(files=FILES)
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        await sh(box, "cat keep.txt d/one; ls -R; echo > /tmp/elsewhere-$$; rm -f /tmp/elsewhere-$$")
        snapshot = await box.snapshot(store)
    assert snapshot.entries == ()
    assert snapshot.id == Snapshot(entries=()).id


async def test_change_is_not_missed(boxes: Boxes, store: Store) -> None:
    """New, edited, deleted, chmodded, a new folder, an emptied one, a link: each is one typed entry."""
    root = boxes.project(files=FILES)
    (root / "link").symlink_to("keep.txt")
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        await sh(
            box,
            "echo new > new.txt; printf new > edit.txt; rm gone.txt d/one d/two; chmod 755 run.sh;"
            "mkdir -p a/b; ln -sfn edit.txt link; ln -s ../outside odd",
        )
        snapshot = await box.snapshot(store)
    assert rows(snapshot, root) == {
        "new.txt": ("file", "0o644", sha("new\n"), ""),
        "edit.txt": ("file", "0o644", sha("new"), ""),
        "gone.txt": ("gone", "0o0", "", ""),
        "d/one": ("gone", "0o0", "", ""),
        "d/two": ("gone", "0o0", "", ""),
        "run.sh": ("file", "0o755", sha("#!/bin/sh\n"), ""),
        "a": ("dir", "0o755", "", ""),
        "a/b": ("dir", "0o755", "", ""),
        "link": ("link", "0o777", "", "edit.txt"),
        "odd": ("link", "0o777", "", "../outside"),
    }
    assert store.get(sha("new\n")) == b"new\n"


async def test_edit_with_the_same_size_and_time_is_not_missed(boxes: Boxes, store: Store) -> None:
    """`touch -r` after an edit hides nothing: ctime and inode are looked at too."""
    root = boxes.project(files=FILES)
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        await sh(
            box,
            "cp -p edit.txt /workspace/ref && printf OLD > edit.txt && touch -r /workspace/ref edit.txt"
            if not boxes.fake
            else "touch -r edit.txt ref; printf OLD > edit.txt; touch -r ref edit.txt; rm ref",
        )
        snapshot = await box.snapshot(store)
    assert rows(snapshot, root) == {"edit.txt": ("file", "0o644", sha("OLD"), "")}


async def test_kind_that_changed_is_not_confused(boxes: Boxes, store: Store) -> None:
    """A file that becomes a folder, a folder that becomes a file."""
    root = boxes.project(files=FILES)
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        await sh(box, "rm keep.txt; mkdir keep.txt; echo x > keep.txt/x; rm -r d; echo d > d")
        snapshot = await box.snapshot(store)
    assert {p: r[0] for p, r in rows(snapshot, root).items()} == {
        "keep.txt": "dir",
        "keep.txt/x": "file",
        "d": "file",
        "d/one": "gone",
        "d/two": "gone",
    }


async def test_odd_names_do_not_break_a_snapshot(boxes: Boxes, store: Store) -> None:
    """Newlines and bytes that are not UTF-8 come out as they are, and go into another sandbox as they are."""
    names = [b"new\nline", b"\xff\xfe", b"-rf", "ä☃".encode(), b"x" * 255]
    program = f"for name in {names!r}: open(name, 'wb').write(name)"
    async with boxes.open() as box:
        await box.run(["python3", "-c", program])
        snapshot = await box.snapshot(store)
    assert {os.fsencode(e.path) for e in snapshot.entries} == set(names)
    assert Snapshot.from_json(snapshot.to_json()) == Snapshot(entries=tuple(sorted(snapshot.entries)))
    async with boxes.open() as box:
        await box.apply(snapshot, store)
        assert (await box.snapshot(store)).id == snapshot.id


async def test_what_is_no_file_is_not_in_a_snapshot(boxes: Boxes, store: Store) -> None:
    """FIFOs and sockets do not exist there, and nobody waits for their other end."""
    async with boxes.open() as box:
        await sh(box, "mkfifo fifo; echo x > file")
        await box.run(["python3", "-c", "import socket; socket.socket(socket.AF_UNIX).bind('socket')"])
        with anyio.fail_after(15):
            snapshot = await box.snapshot(store)
    assert [e.path for e in snapshot.entries] == ["file"]


async def test_own_repository_is_not_in_a_snapshot(boxes: Boxes, store: Store) -> None:
    """`.git` in any spelling, at any depth, is the agent's own business."""
    root = boxes.project(files=FILES)
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        await sh(
            box, "mkdir -p .git d/.GIT 'd/git~1'; echo x > .git/config; echo x > d/.GIT/hook; echo x > 'd/git~1/x'; echo y > y"
        )
        snapshot = await box.snapshot(store)
    assert list(rows(snapshot, root)) == ["y"]


async def test_special_bits_do_not_travel(boxes: Boxes, store: Store) -> None:
    """setuid, setgid and sticky end at the border."""
    async with boxes.open() as box:
        await sh(box, "echo x > f; chmod 6755 f; mkdir d; chmod 1777 d")
        snapshot = await box.snapshot(store)
    assert {e.path: oct(e.mode) for e in snapshot.entries} == {"f": "0o755", "d": "0o777"}


async def test_keep_decides_what_is_taken(boxes: Boxes, store: Store) -> None:
    """Only the chosen indexes, and contents of nothing else, cross the wall."""
    seen: list[Change] = []

    def keep(changes: list[Change]) -> list[int]:
        seen.extend(changes)
        return [i for i, c in enumerate(changes) if c.path.endswith(".py")]

    async with boxes.open() as box:
        await sh(box, "mkdir .git; echo g > .git/x; echo 1 > a.py; echo 2 > a.pyc; echo 3 > b.py")
        snapshot = await box.snapshot(store, keep=keep)
    assert [e.path for e in snapshot.entries] == ["a.py", "b.py"]
    assert [c.path for c in seen] == ["a.py", "a.pyc", "b.py"]
    assert not store.has(sha("2\n"))


@pytest.mark.docker
async def test_unreadable_file_is_named_and_left_out(boxes: Boxes, store: Store) -> None:
    """Mode 0000 does not stop an answer; it is recorded as missing from it."""
    if boxes.fake and os.getuid() == 0:
        pytest.skip("nothing is unreadable for root")
    async with boxes.open() as box:
        await sh(box, "echo x > x; echo y > y; truncate -s 9000000 z; chmod 0 x z")
        snapshot = await box.snapshot(store)
    assert [e.path for e in snapshot.entries] == ["y"]
    assert snapshot.left_out == ("/workspace/x", "/workspace/z")


@pytest.mark.docker
async def test_closed_folder_is_not_taken_for_an_empty_one(boxes: Boxes, store: Store) -> None:
    """What cannot be looked at is not gone: `chmod 000 d` must never delete d's files from a project."""
    if boxes.fake and os.getuid() == 0:
        pytest.skip("nothing is closed for root")
    root = boxes.project(files=FILES)
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        await sh(box, "chmod 000 d")
        snapshot = await box.snapshot(store)
    assert {p: r[0] for p, r in rows(snapshot, root).items()} == {"d": "dir"}
    assert snapshot.left_out == (f"{root}/d",)


async def test_folders_deeper_than_paths_reach_do_not_fail_a_snapshot(boxes: Boxes, store: Store) -> None:
    """They are named as left out, and the rest is taken."""
    root = boxes.project(files=FILES)
    program = "import os\nopen('new', 'w').close()\nfor _ in range(30): os.mkdir('d' * 250); os.chdir('d' * 250)\n"
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        assert (await box.run(["python3", "-c", program])).ok
        snapshot = await box.snapshot(store)
        assert "new" in rows(snapshot, root)
        deep = f"{root}/{'d' * 250}/"
        assert [place.startswith(deep) for place in snapshot.left_out] == [True], snapshot.left_out
        assert Snapshot.from_json(snapshot.to_json()).left_out == snapshot.left_out
        await sh(box, "rm -rf d*", cwd=root)


async def test_holes_do_not_travel_or_take_room(boxes: Boxes, store: Store) -> None:
    """A sparse file keeps its bytes, size, identity and holes: in the store, and in the sandbox that it is restored in."""
    root = boxes.project(files=FILES)
    program = (
        "for name, data in ('a', ((0, b'head'), (20 << 20, b'x' * 300_000), ((40 << 20) - 4, b'tail'))), ('b', ()):\n"
        "    with open(name, 'wb') as f:\n"
        "        f.truncate(40 << 20)\n"
        "        for at, some in data: f.seek(at); f.write(some)\n"
    )
    look = (
        "import os, hashlib\nfor n in 'ab': print(hashlib.sha256(open(n, 'rb').read()).hexdigest(), os.stat(n).st_blocks < 1500)"
    )
    whole = b"head" + bytes((20 << 20) - 4) + b"x" * 300_000 + bytes((20 << 20) - 300_004) + b"tail"
    expected = {"a": sha(whole), "b": sha(bytes(40 << 20))}
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        assert (await box.run(["python3", "-c", program])).ok
        snapshot = await box.snapshot(store)
    assert {e.path: e.sha256 for e in snapshot.entries} == expected
    assert sum(store.path(name).stat().st_blocks for name in expected.values()) < 1500
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        await box.apply(snapshot, store)
        assert (await box.run(["python3", "-c", look])).stdout.text == "".join(f"{name} True\n" for name in expected.values())
        assert (await box.snapshot(store)).id == snapshot.id


@pytest.mark.parametrize("size", [3, 3_000_000])
async def test_content_that_was_altered_in_the_store_is_not_restored(boxes: Boxes, store: Store, size: int) -> None:
    """Other bytes of the same length, the length itself: a typed error that says so, and no such file inside."""
    entry = content(store, "x" * size, "f", WORKSPACE)
    place = store.path(entry.sha256)
    place.chmod(0o600)
    async with boxes.open() as box:
        for altered, why in (("x" * (size - 1) + "y", "altered"), ("x" * (size - 1), "bytes")):
            place.write_text(altered)
            with pytest.raises(SnapshotError, match=why):
                await box.apply(Snapshot(entries=(entry,)), store)
            assert (await box.run(["ls"])).stdout.text == ""


async def test_single_file_draft_is_not_lost_when_it_is_removed(boxes: Boxes, store: Store) -> None:
    """Edited, removed, or made something else: a snapshot says so instead of failing."""
    root = boxes.project(files={"notes.md": "old", "other": "x"})
    place = root / "notes.md"
    mount = Mount(source=place, mode="draft")
    async with boxes.open(mount, cwd=str(root)) as box:
        assert (await box.snapshot(store)).entries == ()
        await sh(box, "printf new > notes.md")
        edited = await box.snapshot(store)
        assert rows(edited, place) == {"": ("file", "0o644", sha("new"), "")}
        await sh(box, "rm notes.md")
        assert rows(await box.snapshot(store), place) == {"": ("gone", "0o0", "", "")}
        await sh(box, "mkfifo notes.md")
        assert rows(await box.snapshot(store), place) == {"": ("gone", "0o0", "", "")}
    async with boxes.open(mount, cwd=str(root)) as box:
        await box.apply(edited, store)
        assert await box.read(str(place)) == b"new"
        assert (await box.snapshot(store)).id == edited.id


async def test_restored_sandbox_is_not_another_one(boxes: Boxes, store: Store) -> None:
    """A snapshot applied to a fresh sandbox of the same project gives the same snapshot back."""
    root = boxes.project(files=FILES)
    (root / "link").symlink_to("keep.txt")
    mount = Mount(source=root, mode="draft")
    async with boxes.open(mount, cwd=str(root)) as box:
        await sh(
            box,
            "echo w > /workspace/note; "
            * (not boxes.fake)
            + "rm -r d; mkdir -p n/e; echo n > n/f; chmod 600 n/f; chmod 555 n; printf new > edit.txt; chmod 755 run.sh;"
            "rm keep.txt; mkdir keep.txt; echo x > keep.txt/x; ln -sfn n link; head -c 3000000 /dev/zero > big",
        )
        snapshot = await box.snapshot(store)
    assert {e.path for e in snapshot.under(str(root))} >= {"n", "n/e", "n/f", "d", "d/one", "big"}
    async with boxes.open(mount, cwd=str(root)) as box:
        await box.apply(snapshot, store)
        again = await box.snapshot(store)
        assert again.entries == snapshot.entries
        assert again.id == snapshot.id


async def test_equal_work_is_not_told_apart(boxes: Boxes, store: Store) -> None:
    """Two agents that write the same bytes have the same snapshot id."""
    ids = set()
    for order in ("echo a > a; echo b > b", "echo b > b; echo a > a; echo c > c; rm c"):
        async with boxes.open() as box:
            await sh(box, order)
            ids.add((await box.snapshot(store)).id)
    assert len(ids) == 1


async def test_large_content_of_a_size_that_nothing_has_is_not_misnamed(boxes: Boxes, store: Store) -> None:
    """It is stored by what it holds, known again, and kept once; one of the same size and other bytes is another one."""
    one, other = b"1" * 9_000_000, b"2" * 9_000_000
    large = 'python3 -c "import sys; sys.stdout.write(sys.argv[1] * 9000000)"'
    async with boxes.open() as box:
        await sh(box, f"{large} 1 > a; echo small > b")
        assert {e.path: e.sha256 for e in (await box.snapshot(store)).entries} == {"a": sha(one), "b": sha(b"small\n")}
        await sh(box, f"cp a c; {large} 2 > d")
        again = await box.snapshot(store)
    assert {e.path: e.sha256 for e in again.entries if e.size > 9} == {"a": sha(one), "c": sha(one), "d": sha(other)}
    assert [store.get(e.sha256)[:1] for e in again.entries] == [b"1", b"s", b"1", b"2"]
    async with boxes.open() as box:
        await sh(box, f"{large} 3 > a; cp a b")
        assert len({e.sha256 for e in (await box.snapshot(Store(store.folder / "other"))).entries}) == 1


async def test_running_program_does_not_tear_a_snapshot(boxes: Boxes, store: Store) -> None:
    """Two files that are always written together agree in every snapshot, and the writer goes on afterwards."""
    program = (
        "n = 0\nwhile True:\n    n += 1\n    with open('a', 'w') as a, open('b', 'w') as b:\n"
        "        a.write(str(n).zfill(9)); a.flush(); b.write(str(n).zfill(9)); b.flush()\n    print(n, flush=True)\n"
    )
    async with boxes.open() as box, box.spawn(["python3", "-c", program]) as process:
        await process.receive()
        for _ in range(3):
            before = await box.snapshot(store)
            again = {e.path: e.sha256 for e in before.entries}
            assert set(again) == {"a", "b"}
        with anyio.fail_after(10):
            for _ in range(5):
                await process.receive()


async def test_failed_snapshot_does_not_leave_everything_stopped(boxes: Boxes, store: Store) -> None:
    """When `keep` raises, or the caller is cancelled, the programs inside go on."""
    marker = f"n_{secrets.token_hex(6)}"
    ticker = f"import time\n{marker} = 0\nwhile True:\n    print({marker}, flush=True)\n    time.sleep(0.01)\n"

    def explode(_changes: object) -> list[int]:
        raise ZeroDivisionError

    async with boxes.open() as box, box.spawn(["python3", "-c", ticker]) as process:
        await process.receive()
        assert processes(marker)
        with pytest.raises(ZeroDivisionError):
            await box.snapshot(store, keep=explode)
        with anyio.fail_after(15):
            for _ in range(100):
                await process.receive()
            assert (await box.run(["echo", "alive"])).ok
        with anyio.CancelScope() as scope:
            await box.snapshot(store, keep=lambda changes: anyio.from_thread.run_sync(scope.cancel) or range(len(changes)))
        with anyio.fail_after(15):
            for _ in range(100):
                await process.receive()
            assert (await box.run(["echo", "alive"])).ok


@pytest.mark.parametrize("size", [100_000, 9 << 20])
async def test_file_does_not_change_while_it_travels(
    boxes: Boxes, store: Store, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Its own pages travel: so the programs go on only when the host has all of it."""
    marker = f"n_{secrets.token_hex(6)}"
    writer = f"{marker} = open('file', 'r+b')\nwhile True:\n    print({marker}.seek(0) + {marker}.write(bytes(9)), flush=True)\n"
    found: list[str] = []
    flush = Intake.flush

    def watched(intake: Intake, *, at_least: int = 1) -> None:
        time.sleep(0.2)  # the guest has long sent everything
        found.extend(state(pid) for pid in processes(marker))
        flush(intake, at_least=at_least)

    monkeypatch.setattr(Intake, "flush", watched)
    async with boxes.open() as box:
        await sh(box, f"head -c {size} /dev/urandom > file", cwd=WORKSPACE)
        async with box.spawn(["python3", "-c", writer], cwd=WORKSPACE) as process:
            await process.receive()
            await box.snapshot(store)
            assert set(found) == {"T"}


async def test_snapshot_between_stop_and_go_does_not_start_the_programs(boxes: Boxes, store: Store) -> None:
    """Who stopped everything decides when it goes on."""
    marker = f"n_{secrets.token_hex(6)}"
    async with (
        boxes.open() as box,
        box.spawn(["python3", "-c", f"{marker} = 0\nwhile True: print({marker}, flush=True)"]) as process,
    ):
        await process.receive()
        await box.stop()
        await box.snapshot(store)
        for pid in processes(marker):
            assert state(pid) == "T"
        await box.go()


async def test_unknown_root_and_lost_content_are_typed_errors(boxes: Boxes, store: Store) -> None:
    """A snapshot for another sandbox, or one whose blobs were removed, is refused; the sandbox goes on."""
    entry = Entry(root="/workspace", path="a", kind="file", mode=0o644, size=1, sha256=sha("a"))
    async with boxes.open() as box:
        with pytest.raises(SnapshotError, match="missing"):
            await box.apply(Snapshot(entries=(entry,)), store)
        assert (await box.run(["ls"])).stdout.text == ""
        await sh(box, "echo > f")
        bad = Entry(root="/workspace", path="f/x", kind="dir", mode=0o755)
        with pytest.raises(GuestError):
            await box.apply(Snapshot(entries=(bad,)), store)
        assert (await box.run(["echo", "alive"])).ok


async def test_thousands_of_files_do_not_break_a_snapshot(boxes: Boxes, store: Store) -> None:
    """Many records, many blobs, every one there."""
    async with boxes.open() as box:
        await box.run(["python3", "-c", "for i in range(1500): open('f%04d' % i, 'w').write(str(i % 700))"])
        snapshot = await box.snapshot(store)
        assert len(snapshot.entries) == 1500
        assert all(store.has(e.sha256) for e in snapshot.entries)


@pytest.fixture
def boxes(drafts: Boxes) -> Boxes:
    """Every kind of draft keeps the same promises."""
    return drafts
