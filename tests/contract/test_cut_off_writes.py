"""A write that is cut off while massgen itself lives, and what is left of one that cannot be ended as usual."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from massgen.coordination import later, leases
from massgen.coordination.recovery import recover
from massgen.coordination.risks import CLASSES
from massgen.coordination.shelf import collect
from massgen.errors import SandboxFailed
from massgen.events.codec import Envelope
from massgen.events.types import Notice
from sandbox import owner
from sandbox.testing import FakeEngine
from tests.support.boxes import picture
from tests.support.scene import Scene

ALL = frozenset(CLASSES)
DEAD = "1:1:another boot:"


@pytest.fixture
def scene(tmp_path: Path, image: str) -> Scene:
    """A run with a result, not written."""
    return Scene(tmp_path, FakeEngine(tmp_path / "boxes"), image)


def dying(scene: Scene, at: int) -> FakeEngine:
    """An engine whose container is lost at that step of a write; what comes after lives."""
    steps = iter(range(1, 10**6))
    return FakeEngine(scene.folder / "boxes", dies=lambda _what: next(steps) == at)


async def half_written(scene: Scene, at: int) -> leases.Held:
    """A write that was lost there, and whose recovery was lost, too: its record, with an owner that is dead."""
    steps = iter(range(1, 10**6))
    engine = FakeEngine(scene.folder / "boxes", dies=lambda _what: next(steps) >= at)
    with pytest.raises(SandboxFailed):
        await later.apply(scene.state, "r1", engine=engine, allowed=ALL)
    (held,), damaged = leases.held_leases(scene.state)
    assert damaged == []
    held = replace(held, owner=DEAD)
    leases.hold(scene.state, held)
    return held


async def test_a_container_lost_in_the_middle_of_a_write_leaves_half_of_it(scene: Scene) -> None:
    """At every step: the command itself makes the project whole before it ends, and says what became of it."""
    old = picture(scene.project)
    await later.apply(scene.state, "r1", engine=scene.engine, allowed=ALL)
    new = picture(scene.project)
    ends = []
    for at in range(1, 200):
        scene.restore()
        engine = dying(scene, at)
        try:
            await later.apply(scene.state, "r1", engine=engine, allowed=ALL)
            ends.append(True)
        except SandboxFailed:
            ends.append(False)
        assert picture(scene.project) == (new if ends[-1] else old), at
        assert (scene.record().written is not None) is ends[-1]
        assert scene.left() == []
        if len(engine.started) == 1:
            break
    assert len(ends) > 40
    assert set(ends) == {True, False}


async def test_a_write_cancelled_at_any_moment_is_half_done_or_forgotten(scene: Scene) -> None:
    """At every event: old and not on record, or new and on record; and the next command finds nothing to end."""
    old = picture(scene.project)
    ends = []
    for at in range(1, 20):
        scene.restore()
        seen: list[Envelope] = []
        with anyio.CancelScope() as scope:

            def reader(envelope: Envelope, at: int = at, scope: anyio.CancelScope = scope, seen: list[Envelope] = seen) -> None:
                seen.append(envelope)
                if len(seen) == at:
                    scope.cancel()

            await later.apply(scene.state, "r1", engine=scene.engine, allowed=ALL, readers=[reader])
        ends.append(scene.record().written is not None)
        assert (picture(scene.project) != old) is ends[-1], at
        assert scene.left() == []
        assert await scene.next_start() == ()
        if ends[-1]:
            await later.undo(scene.state, "r1", engine=scene.engine)
            assert picture(scene.project) == old
        if len(seen) < at:
            break
    assert set(ends) == {True, False}


def gone(scene: Scene, held: leases.Held) -> str:
    """The disk with the project was taken out."""
    scene.project.rename(scene.folder / "elsewhere")
    return f"{scene.project}, which is not there"


def damaged(scene: Scene, held: leases.Held) -> str:
    """Its record cannot be read."""
    (scene.state / leases.LEASES / f"{held.stage}.json").write_text('{"v": 1, "stage": ')
    return f"{held.stage}.lost"


def emptied(scene: Scene, held: leases.Held) -> str:
    """The store lost what belongs there."""
    (scene.state / "store/snapshots" / held.snapshot).unlink()
    return f"{held.stage}.lost"


def imageless(scene: Scene, held: leases.Held) -> str:
    """No container can be had."""
    scene.engine = FakeEngine(scene.folder / "boxes", missing=[held.image])
    return "could not be ended"


@pytest.mark.parametrize("trouble", [gone, damaged, emptied, imageless])
async def test_a_write_that_cannot_be_ended_blocks_other_projects(
    scene: Scene, trouble: Callable[[Scene, leases.Held], str]
) -> None:
    """Whatever stands in its way is said, and a start elsewhere goes on; its own project is used only when it is whole."""
    held = await half_written(scene, 25)
    said = trouble(scene, held)
    found = await recover(scene.state, engine=scene.engine, roots=[scene.folder / "another"])
    assert len(found) == 1
    assert said in found[0]
    match trouble.__name__:
        case "gone":
            (scene.folder / "elsewhere").rename(scene.project)
            assert "as it was before" in (await scene.next_start())[0]
            assert scene.left() == []
        case "imageless":
            with pytest.raises(SandboxFailed, match="could not be ended"):
                await recover(scene.state, engine=scene.engine, roots=[scene.project / "below"])
            await recover(scene.state, engine=scene.engine, roots=[scene.project], image="another")
            assert scene.left() == []
        case _:
            assert (scene.state / leases.LEASES / f"{held.stage}.lost").exists()
            assert await scene.next_start() == ()


async def test_a_journal_that_somebody_removed_leaves_it_at_a_guess(scene: Scene) -> None:
    """Without the stage folder there is no way back by itself: what is not as either version is named, nothing is touched."""
    held = await half_written(scene, 25)
    shutil.rmtree(scene.project / f".massgen-lease-{held.stage}")
    now = picture(scene.project)
    (said,) = await scene.next_start()
    assert "left alone" in said
    assert str(scene.project) in said
    assert picture(scene.project) == now
    assert scene.left() == []


async def test_a_living_writer_is_taken_for_a_dead_one(scene: Scene) -> None:
    """A record whose process lives, this one included while it is at it, is nobody else's business."""
    held = await half_written(scene, 25)
    now = picture(scene.project)
    for who in (owner.me(), "1:1:unknown:nowhere:x"):
        leases.hold(scene.state, replace(held, owner=who))
        assert await scene.next_start() == ()
        assert picture(scene.project) == now
    leases.hold(scene.state, replace(held, owner=owner.me()))
    leases.leave(held)
    assert len(await scene.next_start()) == 1
    assert scene.left() == []


async def test_gc_removes_what_a_recovery_needs(scene: Scene) -> None:
    """Old as it is, a run whose write is still to be ended stays, with all contents; then it is whole again."""
    held = await half_written(scene, 25)
    for place in (scene.state / "store").rglob("*"):
        if place.is_file():
            os.utime(place, (1, 1))
    assert collect(scene.state, keep_days=0).runs == ()
    assert "as it was before" in (await scene.next_start())[0]
    assert held.run_id in collect(scene.state, keep_days=0).runs


async def test_a_write_meets_a_half_written_project(scene: Scene) -> None:
    """Somebody died between our start and our write: that is ended under way, and the write goes into a whole project."""
    old = picture(scene.project)
    held = await half_written(scene, 25)
    leases.drop(scene.state, held)
    said: list[str] = []

    def reader(envelope: Envelope) -> None:
        if isinstance(envelope.event, Notice):
            said.append(envelope.event.text)
            if len(said) == 1:
                leases.hold(scene.state, held)

    await later.apply(scene.state, "r1", engine=scene.engine, allowed=ALL, readers=[reader])
    assert [text for text in said if "was killed" in text] == [text for text in said if "as it was before" in text] != []
    assert scene.left() == []
    await later.undo(scene.state, "r1", engine=scene.engine)
    assert picture(scene.project) == old
