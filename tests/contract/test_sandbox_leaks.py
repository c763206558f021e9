"""What is opened is closed: containers, descriptors, threads, tasks, folders; also when things go wrong half way."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from sandbox import Mount, Sandbox, SandboxLost, SandboxSpec, Store
from sandbox.owner import LABEL, alive, me
from tests.support.boxes import SMALL, Boxes, until


def descriptors() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def containers() -> list[str]:
    """Containers, in any state, that this process owns."""
    client = docker.from_env(timeout=10)
    try:
        return [c["Id"] for c in client.api.containers(all=True, filters={"label": f"{LABEL}={me()}"})]
    finally:
        client.close()


async def use(boxes: Boxes, store: Store, root: Path) -> None:
    """A bit of everything."""
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        await box.run(["sh", "-c", "echo x > new; sleep 1000 &"])
        async with box.spawn(["cat"]) as process:
            await process.send(b"x")
            await process.receive()
        await box.snapshot(store)
        async with box.spawn(["sleep", "1000"]):
            pass


async def test_many_sandboxes_leave_nothing_behind(boxes: Boxes, store: Store) -> None:
    """After the first one has warmed everything up, ten more change no count."""
    root = boxes.project(files={"a": "a"})
    await use(boxes, store, root)
    gc.collect()
    before = descriptors(), len(asyncio.all_tasks())
    threads = set(threading.enumerate())
    for _ in range(4):
        await use(boxes, store, root)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(use, boxes, store, root)
    # Threads of a guest are called Thread-N; worker threads of anyio are kept for reuse, which is no leak of ours.
    await until(lambda: descriptors() <= before[0] and len(asyncio.all_tasks()) <= before[1])
    await until(lambda: not {t for t in threading.enumerate() if t.name.startswith("Thread-")} - threads)
    if not boxes.fake:
        assert containers() == []


async def test_fake_guest_does_not_outlive_its_block(boxes: Boxes, store: Store) -> None:
    """Descriptors are counted exactly where no worker thread is involved."""
    if not boxes.fake:
        pytest.skip("containers are counted by their label")
    root = boxes.project(files={"a": "a"})
    await use(boxes, store, root)
    gc.collect()
    before = descriptors()
    for _ in range(5):
        await use(boxes, store, root)
        # One that still ran would write its wake-up byte to a descriptor number that is somebody else's by now.
        assert not [t for t in threading.enumerate() if "_watch_clock" in t.name]
    await until(lambda: descriptors() <= before)
    assert boxes.engine.running == 0
    assert list(boxes.engine.folder.iterdir()) == []


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.1, 0.3, 0.6, 1.0])
async def test_cancelled_start_leaves_no_container(boxes: Boxes, delay_s: float) -> None:
    """At whatever moment the start is given up."""
    before = len(asyncio.all_tasks())
    with anyio.move_on_after(delay_s):
        async with boxes.open():
            await anyio.sleep_forever()
    if not boxes.fake:
        assert containers() == []
    assert len(asyncio.all_tasks()) == before


async def test_error_in_the_block_is_not_wrapped_or_swallowed(boxes: Boxes) -> None:
    """The caller's own error arrives as itself, and the container is gone."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with boxes.open() as box:
            await box.run(["true"])
            raise ZeroDivisionError
    if not boxes.fake:
        assert containers() == []


@pytest.mark.docker
async def test_killed_container_is_an_outcome_not_a_hang(boxes: Boxes) -> None:
    """When somebody removes the container, running commands are `lost`, later calls say so, and the block ends."""
    if boxes.fake:
        pytest.skip("there is no container to kill")

    def kill() -> None:
        client = docker.from_env(timeout=10)
        try:
            client.api.kill(box.container)
        finally:
            client.close()

    outcomes: list[Any] = []

    async def run(box: Sandbox) -> None:
        outcomes.append(await box.run(["sh", "-c", "echo before; exec sleep 1000"], on_output=lambda *_: heard.set()))

    heard = anyio.Event()
    with anyio.fail_after(60):
        async with boxes.open() as box:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, box)
                await heard.wait()
                await anyio.to_thread.run_sync(kill)
            assert (await box.run(["true"])).reason == "lost"
            with pytest.raises(SandboxLost):
                await box.read("/workspace/x")
    assert outcomes[0].reason == "lost"
    assert outcomes[0].stdout.text == "before\n"
    assert containers() == []


@pytest.mark.docker
async def test_reap_does_not_touch_the_living(boxes: Boxes) -> None:
    """A container whose owner is gone is removed; one whose owner lives stays."""
    if boxes.fake:
        pytest.skip("threads die with their process")
    dead = "999999999:1:" + me().rpartition(":")[2]
    assert not alive(dead)
    client = docker.from_env(timeout=10)
    try:
        orphan = client.api.create_container(boxes.image, command=["true"], labels={LABEL: dead})["Id"]
        async with boxes.open() as box:
            await boxes.engine.reap()  # or another test beside us did it
            assert (await box.run(["echo", "alive"])).ok
        assert not client.api.containers(all=True, filters={"id": orphan})
    finally:
        client.close()


@pytest.mark.docker
async def test_broken_image_is_an_error_with_a_remedy(boxes: Boxes, tmp_path: Path) -> None:
    """No python3 inside: StartFailed in words, not a timeout; no container stays."""
    if boxes.fake:
        pytest.skip("the fake has no images")
    spec = SandboxSpec(image=boxes.image, limits=SMALL, env={"PATH": "/nowhere"})
    with pytest.raises(Exception, match="python3"):
        async with Sandbox.open(spec, engine=boxes.engine):
            pass
    assert containers() == []


async def test_a_container_waits_for_its_host_to_come_back(boxes: Boxes) -> None:
    """Let go without a word, as a host does that dies, it ends by itself, with what ran in it."""
    async with boxes.open() as box, box.spawn(["sleep", "600"]) as process:
        assert await box.let_go(10) is not None
        assert (await process.wait()).reason == "lost"
