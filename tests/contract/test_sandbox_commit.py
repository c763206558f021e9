"""The lease: all of a snapshot or nothing, only what is still as it was seen, and always a way back."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from sandbox import Drift, Engine, Entry, LeaseError, SandboxError, SnapshotError, Store
from tests.contract.conftest import KINDS
from tests.support.boxes import Boxes, content, of, picture, safely, seen, sha, work

FILES = {"edit.txt": "old", "gone.txt": "gone", "d/one": "1", "d/two": "2", "run.sh": "#!/bin/sh\n", "keep.txt": "keep"}
SCRIPT = (
    "printf new > edit.txt; rm gone.txt; rm -r d; chmod 755 run.sh; mkdir -p n/e; printf n > n/e/f; chmod 750 n/e;"
    "chmod 600 n/e/f; ln -s ../edit.txt n/link; mkdir empty"
)


@pytest.mark.parametrize("written", KINDS, indirect=True)
async def test_commit_does_not_write_anything_but_the_snapshot(boxes: Boxes, store: Store) -> None:
    """Write, replace, delete, folders, links and modes arrive exactly; undo restores bytes and modes exactly."""
    root = boxes.project(files=FILES)
    (root / "edit.txt").chmod(0o640)
    (root / "d").chmod(0o750)
    before = picture(root)
    snapshot = await work(boxes, store, SCRIPT, root)
    undo = await boxes.commit(snapshot, store, seen(snapshot), root)
    after = picture(root)
    assert after == {
        ".": before["."],
        "edit.txt": ("file", 0o640, "new"),
        "run.sh": ("file", 0o755, "#!/bin/sh\n"),
        "keep.txt": before["keep.txt"],
        "n": ("dir", 0o755, ""),
        "n/e": ("dir", 0o750, ""),
        "n/e/f": ("file", 0o600, "n"),
        "n/link": ("link", 0, "../edit.txt"),
        "empty": ("dir", 0o755, ""),
    } | ({} if "d" not in after else {"d": before["d"]})
    assert store.get_snapshot(undo.id).entries == tuple(sorted(undo.entries))
    redo = await boxes.commit(undo, store, seen(undo), root, purpose="undo")
    assert picture(root) == before
    await boxes.commit(redo, store, seen(redo), root)
    assert picture(root) == after


async def test_kinds_change_into_each_other(boxes: Boxes, store: Store) -> None:
    """A file that becomes a folder with files, a folder that becomes a file, a link that becomes a folder: all honest work."""
    root = boxes.project(files=FILES)
    (root / "link").symlink_to("keep.txt")
    before = picture(root)
    snapshot = await work(
        boxes,
        store,
        "rm edit.txt link; mkdir -p edit.txt/sub link; echo x > edit.txt/sub/x; echo y > link/y; rm -r d; echo d > d",
        root,
    )
    expected = {
        key: "" if "/" in key[1] and have != sha("1") and have != sha("2") else have for key, have in safely(snapshot).items()
    }
    undo = await boxes.commit(snapshot, store, expected, root)
    assert picture(root)["edit.txt/sub/x"] == ("file", 0o644, "x\n")
    assert picture(root)["link/y"] == ("file", 0o644, "y\n")
    assert picture(root)["d"] == ("file", 0o644, "d\n")
    await boxes.commit(undo, store, safely(undo), root, purpose="undo")
    assert picture(root) == before


@pytest.mark.parametrize("mode", [0o555, 0o500])
async def test_read_only_folder_can_be_made_filled_and_emptied(boxes: Boxes, store: Store, mode: int) -> None:
    """Folder modes come last: a new read-only folder arrives with its files, and its undo takes it away again."""
    root = boxes.project(files=FILES)
    before = picture(root)
    snapshot = await work(boxes, store, f"mkdir ro; echo x > ro/x; chmod {mode:o} ro; echo y > d/new; chmod {mode:o} d", root)
    undo = await boxes.commit(snapshot, store, seen(snapshot), root)
    assert picture(root)["ro"] == ("dir", mode, "")
    assert picture(root)["ro/x"] == ("file", 0o644, "x\n")
    assert picture(root)["d"] == ("dir", mode, "")
    await boxes.commit(undo, store, seen(undo), root, purpose="undo")
    assert picture(root) == before


@pytest.mark.parametrize("drift", ["changed", "vanished", "appeared", "linked", "folder"])
@pytest.mark.probe("96")
async def test_drift_is_not_written_over(boxes: Boxes, store: Store, drift: str) -> None:
    """One file that is no longer as the agents saw it stops all of the write, by name, and nothing is left behind."""
    root = boxes.project(files=FILES)
    snapshot = await work(boxes, store, SCRIPT, root)
    expected = seen(snapshot)
    match drift:
        case "changed":
            place = root / "edit.txt"
            place.write_text("the user's own")
        case "vanished":
            place = root / "gone.txt"
            place = root / "edit.txt"
            place.unlink()
        case "appeared":
            place = root / "n"
            place.write_text("a file")
        case "linked":
            place = root / "edit.txt"
            place.unlink()
            place.symlink_to("keep.txt")
        case _:
            place = root / "edit.txt"
            place.unlink()
            place.mkdir()
    before = picture(root)
    with pytest.raises(Drift) as caught:
        await boxes.commit(snapshot, store, expected, root)
    assert str(place) in caught.value.paths
    assert picture(root) == before


async def test_path_without_an_expectation_is_not_written(boxes: Boxes, store: Store) -> None:
    """Forgetting to say what must be there is an error, not a licence."""
    root = boxes.project(files=FILES)
    before = picture(root)
    snapshot = of(content(store, "x", "new", root), content(store, "y", "edit.txt", root))
    with pytest.raises(LeaseError, match="no expectation"):
        await boxes.commit(snapshot, store, {(str(root), "new"): ""}, root)
    assert picture(root) == before


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "a/../../outside", ".."])
async def test_link_that_leads_out_is_not_written(boxes: Boxes, store: Store, target: str) -> None:
    """The next writer would follow it."""
    root = boxes.project(files=FILES)
    before = picture(root)
    snapshot = of(
        content(store, "x", "a", root),
        Entry(root=str(root), path="d/link", kind="link", target=f"{'../' * (not target.startswith('/'))}{target}"),
    )
    with pytest.raises(LeaseError, match="outside"):
        await boxes.commit(snapshot, store, seen(snapshot), root)
    assert picture(root) == before


@pytest.mark.parametrize("new", [False, True], ids=["link-of-the-project", "link-of-the-snapshot"])
@pytest.mark.probe("96")
async def test_file_below_a_link_is_not_written(boxes: Boxes, store: Store, new: bool) -> None:
    """A folder that is a link, whether the user's or the snapshot's own, leads nowhere."""
    outside = boxes.project("outside")
    root = boxes.project(files=FILES)
    entries = [content(store, "x", "way/x", root)]
    expected = {(str(root), "way/x"): "", (str(root), "way"): ""}
    if new:
        entries.append(Entry(root=str(root), path="way", kind="link", target="d"))
    else:
        (root / "way").symlink_to(outside)
    before = picture(root)
    with pytest.raises(SandboxError):
        await boxes.commit(of(*entries), store, expected, root)
    assert picture(root) == before
    assert not list(outside.iterdir())


@pytest.mark.probe("84", "96")
async def test_hostile_target_does_not_leave_half_a_write(boxes: Boxes, store: Store) -> None:
    """What no system call takes ends the transaction, not its rollback."""
    root = boxes.project(files=FILES)
    before = picture(root)
    snapshot = of(content(store, "x", "edit.txt", root), Entry(root=str(root), path="zz", kind="link", target="a\0b"))
    with pytest.raises(SandboxError):
        await boxes.commit(snapshot, store, {(str(root), "edit.txt"): sha("old"), (str(root), "zz"): ""}, root)
    assert picture(root) == before


async def test_failure_in_the_middle_does_not_leave_half_a_write(boxes: Boxes, store: Store) -> None:
    """When one rename fails after others have succeeded, every one of them is taken back, implicit folders included."""
    root = boxes.project(files={**FILES, "z/locked/x": "x"})
    snapshot = await work(boxes, store, SCRIPT + "; printf late > z/locked/x", root)
    snapshot = of(
        *snapshot.entries,
        content(store, "x", "implicit/deep/file", root),
        Entry(root=str(root), path="zz/" + "x" * 300, kind="dir", mode=0o755),
    )
    expected = safely(of(*snapshot.entries[:-1])) | {(str(root), "zz/" + "x" * 300): ""}
    before = picture(root)
    with pytest.raises(SandboxError):
        await boxes.commit(snapshot, store, expected, root)
    assert picture(root) == before


@pytest.mark.docker
async def test_read_only_folder_of_the_user_does_not_leave_half_a_write(boxes: Boxes, store: Store) -> None:
    """A folder that nobody may write in fails its rename; the rest is taken back."""
    if boxes.fake and os.getuid() == 0:
        pytest.skip("nothing is read-only for root outside of a container")
    root = boxes.project(files={**FILES, "z/x": "x"})
    snapshot = await work(boxes, store, SCRIPT + "; printf late > z/x", root)
    expected = seen(snapshot)
    (root / "z").chmod(0o555)
    before = picture(root)
    with pytest.raises(SandboxError):
        await boxes.commit(snapshot, store, expected, root)
    assert picture(root) == before
    (root / "z").chmod(0o755)


async def test_single_file_is_written_in_place(boxes: Boxes, store: Store) -> None:
    """A write path that is one file keeps its inode, neighbours stay, undo restores; it cannot be removed."""
    root = boxes.project(files={"notes.md": "old", "other": "x"})
    place = root / "notes.md"
    place.chmod(0o640)
    before, inode = picture(root), place.stat().st_ino
    snapshot = await work(boxes, store, "printf new > notes.md; chmod 600 notes.md", place)
    undo = await boxes.commit(snapshot, store, seen(snapshot), place)
    assert picture(root) == before | {"notes.md": ("file", 0o600, "new")}
    assert place.stat().st_ino == inode
    await boxes.commit(undo, store, seen(undo), place, purpose="undo")
    assert picture(root) == before
    gone = of(Entry(root=str(place), path="", kind="gone"))
    with pytest.raises(Drift):
        await boxes.commit(gone, store, seen(gone), place)
    assert picture(root) == before


async def test_two_roots_are_one_transaction(boxes: Boxes, store: Store) -> None:
    """What fails in the second root is not written in the first."""
    one, two = boxes.project("one", {"a": "1"}), boxes.project("two", {"a": "2"})
    snapshot = of(content(store, "x", "a", one), content(store, "y", "a", two), content(store, "z", "b", two))
    expected = seen(snapshot)
    undo = await boxes.commit(snapshot, store, expected, one, two)
    assert [(one / "a").read_text(), (two / "a").read_text(), (two / "b").read_text()] == ["x", "y", "z"]
    await boxes.commit(undo, store, seen(undo), one, two, purpose="undo")
    (two / "a").write_text("drift")
    with pytest.raises(Drift):
        await boxes.commit(snapshot, store, expected, one, two)
    assert picture(one)["a"][2] == "1"


async def test_altered_content_is_not_written(boxes: Boxes, store: Store) -> None:
    """A blob that is no longer what the snapshot says stops all of the write."""
    root = boxes.project(files=FILES)
    before = picture(root)
    snapshot = of(content(store, "new", "edit.txt", root), content(store, "other", "other", root))
    place = store.path(sha("other"))
    place.chmod(0o600)
    place.write_text("OTHER")
    with pytest.raises(SnapshotError, match="altered"):
        await boxes.commit(snapshot, store, seen(snapshot), root)
    assert picture(root) == before


async def test_holes_stay_holes_in_a_project_and_on_the_way_back(boxes: Boxes, store: Store) -> None:
    """What is written and what is kept for undo take the room of their data."""
    root = boxes.project()
    place = root / "image"

    def write(at: int) -> None:
        with place.open("wb") as file:
            file.truncate(40 << 20)
            file.seek(at)
            file.write(b"data")

    write(30 << 20)
    new = sha(place.read_bytes())
    snapshot = await work(boxes, store, "cp --sparse=always image copy; rm image; mv copy image", root)
    write(0)
    old = sha(place.read_bytes())
    undo = await boxes.commit(snapshot, store, seen(snapshot), root)
    assert (sha(place.read_bytes()), place.stat().st_blocks < 999) == (new, True)
    assert store.path(old).stat().st_blocks < 999
    await boxes.commit(undo, store, seen(undo), root, purpose="undo")
    assert (sha(place.read_bytes()), place.stat().st_blocks < 999) == (old, True)


async def test_nested_repository_does_not_stop_a_write_beside_it(boxes: Boxes, store: Store) -> None:
    """Folders above a nested `.git` are mounts of their own; files in them are written all the same, `.git` never."""
    root = boxes.project(files={"a": "a", ".git/HEAD": "h", "sub/deep/.git/HEAD": "h", "sub/deep/b": "b", "sub/c": "c"})
    before = picture(root)
    snapshot = await work(
        boxes, store, "echo x > a; echo x > sub/deep/b; rm sub/c; echo x > sub/new; mkdir sub/deep/m; echo > sub/deep/m/x", root
    )
    undo = await boxes.commit(snapshot, store, seen(snapshot), root)
    assert picture(root)["sub/deep/b"] == ("file", 0o644, "x\n")
    assert "sub/c" not in picture(root)
    await boxes.commit(undo, store, seen(undo), root, purpose="undo")
    assert picture(root) == before


GROUP, NOBODY = 23456, 0xFFFFFFFF
ACCESS = struct.pack("<I" + "HHI" * 5, 2, *(1, 6, NOBODY), *(2, 6, 3000), *(4, 4, NOBODY), *(16, 6, NOBODY), *(32, 0, NOBODY))
"""An access list as the kernel takes it: the owner and user 3000 may write, the group reads, nobody else does anything."""


def besides(place: Path) -> tuple[int, int, dict[str, bytes]]:
    """What a file is besides its content: mode, group, attributes."""
    about = place.lstat()
    return about.st_mode, about.st_gid, {name: os.getxattr(place, name) for name in os.listxattr(place)}


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file any group")
async def test_what_a_file_is_besides_its_content_is_lost(engine: Engine, image: str, store: Store, tmp_path: Path) -> None:
    """Group, access list and attributes stay through a write and its undo; a folder's group goes to what is made in it."""
    boxes = Boxes(engine, image, tmp_path)
    root = boxes.project(files={"listed": "old", "noted": "old", "team/theirs": "old"})
    try:
        os.setxattr(root / "listed", "system.posix_acl_access", ACCESS)
        os.setxattr(root / "noted", "user.note", b"keep")
    except OSError as error:
        pytest.skip(f"a file system without attributes: {error}")
    (root / "noted").chmod(0o440)
    for place in (root / "team", root / "team/theirs"):
        os.chown(place, -1, GROUP)
    (root / "team").chmod(0o2770)
    before = {name: besides(root / name) for name in ("listed", "noted", "team", "team/theirs")}
    new = Entry(root=str(root), path="team/sub", kind="dir", mode=0o750)
    files = [
        content(store, "new", name, root, mode) for name, mode in (("listed", 0o660), ("noted", 0o440), ("team/theirs", 0o644))
    ]
    snapshot = of(
        *files, Entry(root=str(root), path="team", kind="dir", mode=0o770), new, content(store, "x", "team/sub/new", root)
    )
    undo = await boxes.commit(snapshot, store, seen(snapshot), root)
    assert {name: besides(root / name) for name in before} == before
    assert [besides(root / name)[:2] for name in ("team/sub", "team/sub/new")] == [(0o42750, GROUP), (0o100644, GROUP)]
    assert (root / "listed").read_text() == "new"
    await boxes.commit(undo, store, seen(undo), root, purpose="undo")
    assert {name: besides(root / name) for name in before} == before
    assert (root / "listed").read_text() == "old"


async def test_set_user_id_bits_are_lost_or_given_to_other_content(
    engine: Engine, image: str, store: Store, tmp_path: Path
) -> None:
    """A program that runs with its owner's rights is neither replaced nor removed: nothing is written."""
    boxes = Boxes(engine, image, tmp_path)
    root = boxes.project(files=FILES)
    snapshot = of(content(store, "x", "edit.txt", root), Entry(root=str(root), path="run.sh", kind="gone"))
    (root / "run.sh").chmod(0o4755)
    before = picture(root)
    with pytest.raises(LeaseError, match=r"run\.sh \(set-user-id bits\)"):
        await boxes.commit(snapshot, store, seen(snapshot), root)
    assert picture(root) == before


@pytest.fixture
def boxes(written: Boxes) -> Boxes:
    """Copies of root's projects, overlays of a user's: both are written the same."""
    return written
