"""The right to write: single use, for one snapshot and its paths; and what a death in the middle leaves."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import anyio
import anyio.abc
import pytest

from sandbox import WORKSPACE, Entry, LeaseError, Mount, SandboxError, SpecError, Store
from tests.support.boxes import Boxes, content, contents, of, picture, seen, until

FILES = {"edit.txt": "old", "keep.txt": "keep"}


async def test_lease_does_not_open_two_sandboxes(boxes: Boxes) -> None:
    """Single use, even when the first use wrote nothing."""
    root = boxes.project()
    lease = boxes.lease(of(), root)
    async with boxes.open(lease=lease):
        pass
    with pytest.raises(LeaseError, match="used already"):
        async with boxes.open(lease=lease):
            pass


async def test_nothing_is_written_without_the_right_lease(boxes: Boxes, store: Store) -> None:
    """No lease, a lease for another snapshot, another root, another door: an error each, and nothing written."""
    root, other = boxes.project(files=FILES), boxes.project("other")
    before = picture(root)
    snapshot = of(content(store, "x", "edit.txt", root))
    async with boxes.open(Mount(source=root, mode="draft")) as box:
        with pytest.raises(LeaseError, match="no lease"):
            await box.commit(snapshot, store, expected=seen(snapshot))
    async with boxes.open(lease=boxes.lease(of(), root)) as box:
        with pytest.raises(LeaseError, match="lease is for snapshot"):
            await box.commit(snapshot, store, expected=seen(snapshot))
        with pytest.raises(LeaseError):
            await box.apply(snapshot, store)
    async with boxes.open(lease=boxes.lease(snapshot, other)) as box:
        with pytest.raises(SpecError):
            await box.commit(snapshot, store, expected=seen(snapshot))
    with pytest.raises(SpecError):
        async with boxes.open(lease=boxes.lease(snapshot, root / "nowhere")):
            pass
    assert picture(root) == before
    assert not list(other.iterdir())


async def test_workspace_does_not_reach_the_project(boxes: Boxes, store: Store) -> None:
    """Scratch files of an answer are not part of what is written."""
    root = boxes.project()
    scratch = Entry(root=WORKSPACE, path="scratch", kind="file", mode=0o644, size=1, sha256=store.put(b"s"))
    snapshot = of(content(store, "x", "a", root), scratch)
    undo = await boxes.commit(snapshot, store, {(str(root), "a"): ""}, root)
    assert picture(root).keys() == {".", "a"}
    assert [e.path for e in undo.entries] == ["a"]


@pytest.mark.probe("99")
async def test_cancelled_commit_is_whole_or_nothing(boxes: Boxes, store: Store) -> None:
    """Whenever the caller is cancelled, the project holds all of the snapshot or none of it, and no stage."""
    root = boxes.project(files={f"f{i:03}": "old" for i in range(200)})
    before = picture(root)
    snapshot = of(*(content(store, f"new{i}", f"f{i:03}", root) for i in range(200)))
    expected = seen(snapshot)
    outcomes = set()
    for delay_s in (0.0, 0.002, 0.02, 0.06, 0.1, 0.2, 0.4):
        async with boxes.open(lease=boxes.lease(snapshot, root)) as box:
            with anyio.move_on_after(delay_s):
                await box.commit(snapshot, store, expected=expected)
        now = picture(root)
        written = {name for name in now if now[name] != before.get(name)}
        assert written in (set(), {f"f{i:03}" for i in range(200)})
        assert now.keys() == before.keys()
        outcomes.add(bool(written))
        for i in range(200):
            (root / f"f{i:03}").write_text("old")
    assert outcomes


@pytest.mark.probe("99")
async def test_host_that_dies_during_the_write_does_not_leave_half_of_it(boxes: Boxes, store: Store) -> None:
    """Once the guest was told to go it finishes on its own, and takes its stage away, though nobody listens any more."""
    root = boxes.project(files={f"f{i:03}": "old" for i in range(300)})
    names = picture(root).keys()
    snapshot = of(*(content(store, "new", f"f{i:03}", root) for i in range(300)))
    async with boxes.open(lease=boxes.lease(snapshot, root)) as box:
        link: Any = box._mux._link
        stream, send = link._stream, link.send

        async def send_and_die(data: bytes | memoryview) -> None:
            dies = b'"go"' in bytes(data)
            if dies:  # deaf before it speaks: a quick guest has answered when `send` is back, and what lies in a socket is read
                asyncio.get_running_loop().remove_reader(stream.raw)
            await send(data)
            if dies:
                stream.raw.shutdown(socket.SHUT_RDWR)
                stream._ended.set_result(None)

        link.offer, link.send = lambda _data: 0, send_and_die
        with pytest.raises(SandboxError):
            await box.commit(snapshot, store, expected=seen(snapshot))
        # As for a host that was killed: nobody removes the container, it ends by itself.
        await until(lambda: contents(root) in ({"new"}, {"old"}), timeout_s=30)
    assert picture(root).keys() == names


async def test_files_of_another_user_are_not_written(boxes: Boxes, store: Store) -> None:
    """A lease speaks for the owner of the path alone."""
    if os.getuid() != 0:
        pytest.skip("only root can make another user's files")
    root = boxes.project(files=FILES)
    os.chown(root / "edit.txt", 1234, 1234)
    before = picture(root)
    snapshot = of(content(store, "x", "edit.txt", root), content(store, "x", "new", root))
    with pytest.raises(LeaseError, match="another user"):
        await boxes.commit(snapshot, store, seen(snapshot), root)
    assert picture(root) == before


@pytest.mark.docker
async def test_written_files_belong_to_the_owner_of_the_project(boxes: Boxes, store: Store) -> None:
    """Not to root and not to the agents' uid."""
    if boxes.fake or os.getuid() != 0:
        pytest.skip("only root can make another user's project, and only a container becomes that user")
    root = boxes.project(files=FILES)
    for place in (root, *root.rglob("*")):
        os.chown(place, 1234, 1234)
    snapshot = of(content(store, "x", "edit.txt", root), content(store, "x", "new", root))
    await boxes.commit(snapshot, store, seen(snapshot), root)
    assert {((root / n).stat().st_uid, (root / n).read_text()) for n in ("edit.txt", "new")} == {(1234, "x")}


@pytest.mark.docker
async def test_protected_paths_are_not_written(boxes: Boxes, store: Store) -> None:
    """Read-only where the user said so, however deep, and all of the transaction is refused."""
    if boxes.fake:
        pytest.skip("protection is a mount")
    root = boxes.project(files={"a": "a", "docs/spec/x": "x", "docs/y": "y"})
    before = picture(root)
    snapshot = of(content(store, "new", "a", root), content(store, "new", "docs/spec/x", root))
    with pytest.raises(SandboxError):
        await boxes.commit(snapshot, store, seen(snapshot), root, protected=(root / "docs/spec",))
    assert picture(root) == before
    beside = of(content(store, "new", "a", root), content(store, "new", "docs/y", root))
    await boxes.commit(beside, store, seen(beside), root, protected=(root / "docs/spec",))
    assert picture(root)["docs/y"][2] == "new"
