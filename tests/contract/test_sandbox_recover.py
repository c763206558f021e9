"""A write that is killed at any moment: after the next start the project is all old or all new, and nothing else is in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from docker.errors import APIError

from sandbox import Entry, GuestError, LeaseError, Recovered, SandboxError, Snapshot, Store
from sandbox.testing import FakeEngine
from tests.docker.engine_view import client
from tests.support import every_change
from tests.support.boxes import Boxes, content, of, picture, safely, signature

Kill = Callable[[str], bool]


def make(boxes: Boxes, name: str) -> Path:
    """A project in which every kind of change is possible."""
    return every_change.make(boxes.project(name))


class Held:
    """What the host keeps of a lease while it is open."""

    def __init__(self) -> None:
        self.undo: Snapshot | None = None
        self.journal = ""

    def ready(self, undo: Snapshot, journal: str) -> None:
        """Given by `commit`."""
        self.undo, self.journal = undo, journal


class Killer:
    """Ends the guest before its nth change; counts when n is out of reach."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.count = at, 0

    def __call__(self, _what: str) -> bool:
        self.count += 1
        return self.count - 1 == self.at


async def killed(boxes: Boxes, store: Store, snapshot: Snapshot, expected: Mapping[Any, str], *roots: Path) -> tuple[Any, Held]:
    """One commit that may end anywhere; its lease and what was kept of it."""
    held = Held()
    lease = boxes.lease(snapshot, *roots)
    try:
        async with boxes.open(lease=lease) as box:
            await box.commit(snapshot, store, expected=expected, ready=held.ready)
    except SandboxError:
        pass
    return lease, held


async def recovered(boxes: Boxes, store: Store, lease: Any, held: Held, snapshot: Snapshot) -> Recovered:
    """What the next start does."""
    async with boxes.open(lease=boxes.lease("", *lease.paths, purpose="recover")) as box:
        return await box.recover(store, stage=lease.stage, journal=held.journal, snapshot=snapshot, undo=held.undo)


@pytest.fixture
def fakes(tmp_path: Path, image: str) -> Callable[[Killer], Boxes]:
    """Boxes whose guest dies as told."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    return lambda killer: Boxes(FakeEngine(folder / "boxes", dies=killer), image, folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


async def test_a_guest_killed_at_any_step_leaves_half_a_write(fakes: Callable[[Killer], Boxes], store: Store) -> None:
    """Before each single change of a transaction with every kind of step: old or new, bytes and modes, and no stage folder."""
    boxes = fakes(killer := Killer())
    root = make(boxes, "whole")
    old = picture(root)
    snapshot = every_change.change(store, root)
    await killed(boxes, store, snapshot, safely(snapshot), root)
    new, steps = picture(root), killer.count
    assert new != old
    assert new["becomes/x"][2] == "x"
    assert steps > 40
    ends = set()
    for at in range(steps):
        boxes = fakes(Killer(at))
        root = make(boxes, f"p{at}")
        snapshot = every_change.change(store, root)
        lease, held = await killed(boxes, store, snapshot, safely(snapshot), root)
        result = await recovered(fakes(Killer()), store, lease, held, snapshot)
        assert result.torn == (), at
        assert picture(root) == (new if result.written else old), at
        ends.add(result.written)
    assert ends == {True, False}


async def test_a_recovery_that_is_killed_itself_leaves_half_a_write(fakes: Callable[[Killer], Boxes], store: Store) -> None:
    """At each of its own steps, from several deaths of the write: done again, it ends as well."""
    for at in (22, 29):
        ends, moment = [], 0
        while True:
            boxes = fakes(Killer(at))
            root = make(boxes, f"p{at}.{moment}")
            old = picture(root)
            snapshot = every_change.change(store, root)
            lease, held = await killed(boxes, store, snapshot, safely(snapshot), root)
            killer = Killer(moment)
            with contextlib.suppress(SandboxError):
                await recovered(fakes(killer), store, lease, held, snapshot)
            result = await recovered(fakes(Killer()), store, lease, held, snapshot)
            assert result == Recovered(written=False), (at, moment)
            assert picture(root) == old, (at, moment)
            ends.append(killer.count > moment)
            if not ends[-1]:
                break
            moment += 1
        assert len(ends) > 5


async def test_single_files_killed_at_any_step_are_left_cut_off(fakes: Callable[[Killer], Boxes], store: Store) -> None:
    """A root that is one file has no rename and no stage: the host puts its bytes back, or all the new ones stay."""
    seen = set()
    for at in range(40):
        boxes = fakes(killer := Killer(at))
        folder = boxes.project(f"p{at}", {"a": "old a", "b": "old b" * 100_000, "c/x": "old"})
        before = picture(folder)
        roots = (folder / "a", folder / "b", folder / "c")
        snapshot = of(
            Entry(root=str(roots[0]), path="", kind="file", mode=0o600, size=3, sha256=store.put(b"new")),
            Entry(root=str(roots[1]), path="", kind="file", mode=0o644, size=500_000, sha256=store.put(b"n" * 500_000)),
            content(store, "new", "x", roots[2]),
        )
        expected = safely(of(snapshot.entries[2])) | {(e.root, ""): signature(Path(e.root)) for e in snapshot.entries[:2]}
        lease, held = await killed(boxes, store, snapshot, expected, *roots)
        result = await recovered(fakes(Killer()), store, lease, held, snapshot)
        assert result.torn == (), at
        now = picture(folder)
        if result.written:
            assert (now["a"], now["b"][2], now["c/x"][2]) == (("file", 0o600, "new"), "n" * 500_000, "new"), at
        else:
            assert now == before, at
        seen.add(result.written)
        if killer.count <= at:
            break
    assert seen == {True, False}


async def test_what_the_user_edits_after_the_kill_is_written_over(fakes: Callable[[Killer], Boxes], store: Store) -> None:
    """Their version stays, is named, and what belongs there is kept beside it; everything else is put back."""
    boxes = fakes(killer := Killer())
    root = boxes.project("count", {"a": "old", "b": "old"})
    snapshot = of(content(store, "new", "a", root), content(store, "new", "b", root))
    await killed(boxes, store, snapshot, safely(snapshot), root)
    for at in range(killer.count):
        boxes = fakes(Killer(at))
        root = boxes.project(f"p{at}", {"a": "old", "b": "old"})
        snapshot = of(content(store, "new", "a", root), content(store, "new", "b", root))
        lease, held = await killed(boxes, store, snapshot, safely(snapshot), root)
        (root / "a").write_text("the user's own")
        result = await recovered(fakes(Killer()), store, lease, held, snapshot)
        assert (root / "a").read_text() == "the user's own", at
        if not result.written:
            assert (root / "b").read_text() == "old", at
        assert result.torn in ((), (str(root / "a"),)), at
        assert result.torn or not held.undo, at


@pytest.mark.parametrize("forgery", ["content", "link", "folder", "mark"])
async def test_a_forged_journal_moves_files(fakes: Callable[[Killer], Boxes], store: Store, forgery: str) -> None:
    """What lies in the project under the stage's name counts only with the hash that the host kept."""
    boxes = fakes(Killer())
    root = boxes.project("p", {"a": "old", "keep": "keep"})
    outside = boxes.project("outside", {"x": "x"})
    snapshot = of(content(store, "new", "a", root))
    lease, held = boxes.lease(snapshot, root), Held()
    held.journal = "0" * 64
    stage = root / f".massgen-lease-{lease.stage}"
    if forgery == "link":
        stage.symlink_to(outside)
    else:
        stage.mkdir()
        (stage / "journal").write_text('{"roots": ["/"], "stages": ["/"], "steps": []}')
        (stage / "new0").symlink_to(outside / "x")
        if forgery == "folder":
            (stage / "old1").mkdir()
        if forgery == "mark":
            (stage / "placed").write_text("")
    result = await recovered(boxes, store, lease, held, snapshot)
    assert not result.written
    assert (root / "a").read_text() == "old"
    assert (root / "keep").read_text() == "keep"
    assert (outside / "x").read_text() == "x"


async def test_the_right_to_recover_writes_anything_else(fakes: Callable[[Killer], Boxes], store: Store) -> None:
    """It commits nothing, runs nothing; and no other lease recovers."""
    boxes = fakes(Killer())
    root = boxes.project("p", {"a": "old"})
    snapshot = of(content(store, "new", "a", root))
    async with boxes.open(lease=boxes.lease("", root, purpose="recover")) as box:
        with pytest.raises(LeaseError):
            await box.commit(snapshot, store, expected=safely(snapshot))
        with pytest.raises(LeaseError):
            await box.run(["true"])
        with pytest.raises(LeaseError):
            await box.apply(snapshot, store)
    async with boxes.open(lease=boxes.lease(snapshot, root)) as box:
        with pytest.raises(LeaseError):
            await box.recover(store, stage="", journal="", snapshot=snapshot, undo=None)
    assert picture(root)["a"][2] == "old"


async def test_a_draft_whose_filling_is_killed_is_used(fakes: Callable[[Killer], Boxes], store: Store) -> None:
    """An apply into a draft that fails leaves nothing to take back: the draft goes with its container."""
    boxes = fakes(Killer())
    entry = Entry(root="/workspace", path="f/x", kind="dir", mode=0o755)
    half = of(Entry(root="/workspace", path="f", kind="file", mode=0o644, size=1, sha256=store.put(b"x")), entry)
    async with boxes.open() as box:
        with pytest.raises(GuestError):
            await box.apply(half, store)
    async with boxes.open() as box:
        assert (await box.snapshot(store)).entries == ()
    assert not list((boxes.folder / "boxes").glob("*"))


@pytest.mark.docker
@pytest.mark.parametrize("after_s", [0.0, 0.004, 0.012, 0.03, 0.06])
async def test_a_container_killed_during_the_write_leaves_half_of_it(
    image: str, tmp_path: Path, store: Store, after_s: float
) -> None:
    """The engine's own kill, from just after `go` until the write is over."""
    from sandbox import DockerEngine

    boxes = Boxes(await DockerEngine.connect(), image, tmp_path)
    root = make(boxes, "p")
    for n in range(150):
        (root / f"f{n}").write_text("old")
    if os.getuid() == 0:  # not root: for root nothing is read-only
        for place in (root, *root.rglob("*")):
            os.chown(place, 65534, 65534, follow_symlinks=False)
    old = picture(root)
    snapshot = of(*every_change.change(store, root).entries, *(content(store, f"new{n}", f"f{n}", root) for n in range(150)))
    held, lease = Held(), boxes.lease(snapshot, root)

    async with anyio.create_task_group() as tasks, boxes.open(lease=lease) as box:

        async def kill() -> None:
            def work() -> None:
                with client() as engine, contextlib.suppress(APIError):  # it may be over already
                    engine.kill(box.container)

            await anyio.sleep(after_s)
            await anyio.to_thread.run_sync(work)

        def ready(undo: Snapshot, journal: str) -> None:
            held.ready(undo, journal)
            anyio.from_thread.run_sync(tasks.start_soon, kill)

        with contextlib.suppress(SandboxError):
            await box.commit(snapshot, store, expected=safely(snapshot), ready=ready)
        tasks.cancel_scope.cancel()
    result = await recovered(boxes, store, lease, held, snapshot)
    assert result.torn == ()
    now = picture(root)
    assert (now == old) is not result.written
    assert now["f0"][2] == ("new0" if result.written else "old")
    assert not list(root.glob(".massgen*"))
