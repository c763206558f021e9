"""A container lives exactly as long as the process and the block that opened it, however those end."""

from __future__ import annotations

import contextlib
import gc
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import anyio
import docker
import pytest

from sandbox import (
    DockerEngine,
    Engine,
    ImageFacts,
    Lease,
    Link,
    Sandbox,
    SandboxLost,
    SandboxSpec,
    SpecError,
    StartFailed,
    owner,
)
from sandbox.plan import Plan
from tests.docker.engine_view import client, gone, host, labelled, line
from tests.security.attack import SMALL
from tests.support.user import ROOT
from tests.support.wrapped import Wrapped

pytestmark = pytest.mark.docker

FLOODED_S = 2.0
"""Within which a flood that nobody reads is over, however it is ended; it takes a fifth of a second where nobody else works."""
FLOOD = ["python3", "-c", "import os\nwhile True: os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)"]
OPEN = """
async def main(argv):
    label, image, silence_s, what = argv
    spec = SandboxSpec(image=image, labels={"massgen.test": label}, limits=Limits(silence_s=float(silence_s)))
    async with Sandbox.open(spec, engine=await DockerEngine.connect()) as box:
        async with box.spawn(["python3", "-c", "import os\\nwhile True: os.write(1, b'x' * 65536)"]) as process:
            if what != "idle":
                await process.receive()
            print("up", flush=True)
            while what == "reads":
                await process.receive()
            if what == "idle":
                await process.kill()
            outcome = await box.run(["sleep", "600"], timeout_s=600)
            print(outcome.reason, flush=True)
"""


@pytest.fixture
def label() -> str:
    """Marks the containers of one test."""
    return secrets.token_hex(8)


@pytest.fixture
async def engine() -> DockerEngine:
    """The real one."""
    return await DockerEngine.connect()


@pytest.fixture
def spec(image: str, label: str) -> SandboxSpec:
    """A marked sandbox."""
    return SandboxSpec(image=image, labels={"massgen.test": label}, limits=SMALL)


@pytest.mark.parametrize("what", ["idle", "reads", "unread"])
@pytest.mark.probe("69")
async def test_a_killed_host_leaves_a_container(image: str, label: str, what: str) -> None:
    """SIGKILL of the host, idle, in a flood of output it reads, or in one that nobody reads: 2 s later nothing is left (69)."""
    with host(OPEN, label, image, "60", what) as process:
        assert await anyio.to_thread.run_sync(line, process) == "up"
        assert len(labelled(f"massgen.test={label}")) == 1
        process.kill()
        assert await gone(f"massgen.test={label}", within_s=FLOODED_S) is not None


@pytest.mark.probe("70")
async def test_a_silent_host_leaves_a_container(image: str, label: str) -> None:
    """A host that is stopped, its stream still open, is given up after `silence_s`; awake again, it is told `lost` (70)."""
    with host(OPEN, label, image, "1", "idle") as process:
        assert await anyio.to_thread.run_sync(line, process) == "up"
        with anyio.move_on_after(1.5):  # the control: heartbeats keep it alive beyond `silence_s`
            await anyio.sleep_forever()
        assert len(labelled(f"massgen.test={label}")) == 1
        process.send_signal(signal.SIGSTOP)
        assert await gone(f"massgen.test={label}", within_s=5) is not None
        process.send_signal(signal.SIGCONT)
        assert await anyio.to_thread.run_sync(line, process) == "lost"


@pytest.mark.probe("69")
async def test_an_orphan_is_never_reaped_or_a_living_one_is(engine: DockerEngine, image: str, label: str) -> None:
    """`reap` takes what a dead process created, started or not, its pid reused or not; it leaves what a living one has (69)."""
    told = [sys.executable, "-c", "from sandbox import owner; print(owner.me())"]
    dead = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: ASYNC221 - brief
    pid, _, boot, namespace = owner.me().split(":")
    owners = {"dead": dead, "running": dead, "reused": f"{pid}:1:{boot}:{namespace}", "living": owner.me(), "odd": "nobody knows"}
    made: dict[str, str] = {}
    with client() as sdk:
        for name, who in owners.items():
            made[name] = sdk.create_container(image, ["sleep", "600"], labels={owner.LABEL: who, "massgen.test": label})["Id"]
        try:
            with contextlib.suppress(docker.errors.NotFound):  # who starts on this engine meanwhile reaps, too, and was faster
                sdk.start(made["running"])
            reaped = await engine.reap()
            left = set(labelled(f"massgen.test={label}"))
        finally:
            for container in labelled(f"massgen.test={label}"):
                sdk.remove_container(container, force=True)
    assert left == {made["living"], made["odd"]}
    assert {made["living"], made["odd"]} & set(reaped) == set()


@pytest.mark.probe("68")
async def test_a_container_that_is_killed_hangs_the_caller(engine: DockerEngine, spec: SandboxSpec) -> None:
    """`docker kill` from outside: a command, a program and a file operation each end with `lost`, at once (68)."""
    async with Sandbox.open(spec, engine=engine) as box, box.spawn(["cat"]) as program:

        async def kill() -> None:
            def work() -> None:
                with client() as sdk:
                    sdk.kill(box.container)

            await anyio.to_thread.run_sync(work)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(kill)
                outcome = await box.run(["sleep", "600"], timeout_s=600)
            assert outcome.reason == "lost"
            assert (await program.wait()).reason == "lost"
            with pytest.raises(SandboxLost):
                await box.read("/etc/passwd")
            assert (await box.run(["true"])).reason == "lost"


def descriptors() -> list[str]:
    """The open ones of this process."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


class Cancelling(Wrapped):
    """The real engine, with a cancellation at one moment of `open`."""

    def __init__(self, inner: DockerEngine, moment: str, scope: anyio.CancelScope) -> None:
        super().__init__(inner)
        self.moment, self.scope = moment, scope

    async def image(self, name: str) -> ImageFacts:
        if self.moment == "before":
            self.scope.cancel()
        return await self.inner.image(name)

    async def start(self, plan: Plan) -> Link:
        if self.moment == "starting":
            self.scope.cancel()
        link = await self.inner.start(plan)
        if self.moment == "started":
            self.scope.cancel()
        return link


@pytest.mark.parametrize("moment", ["before", "starting", "started", "0.1", "0.3", "opened"])
async def test_a_cancelled_open_leaves_a_container(engine: DockerEngine, spec: SandboxSpec, label: str, moment: str) -> None:
    """Cancellation at any moment of `open` leaves no container, by the time the block is left (design 2.5)."""
    opened = False
    with anyio.CancelScope() as scope:
        if moment[0].isdigit():
            scope.deadline = anyio.current_time() + float(moment)
        cancelling: Engine = Cancelling(engine, moment, scope)
        async with Sandbox.open(spec, engine=cancelling):
            opened = True
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert opened is (moment == "opened") or moment[0].isdigit()
    assert labelled(f"massgen.test={label}") == []


async def test_an_open_that_fails_leaves_something(engine: DockerEngine, spec: SandboxSpec, label: str) -> None:
    """Without python3 for the guest, or with a mount that is not there: an error, no container, no descriptor."""
    missing = Lease.grant(run_id="", agent="", snapshot_id="", purpose="apply", paths=(ROOT / "nothing here",))
    await engine.facts()
    gc.collect()
    before = descriptors()
    bad_tools = replace(spec, tools={"/usr/bin/python3": ROOT / "README.md", "/usr/local/bin/python3": ROOT / "README.md"})
    for broken in (bad_tools, replace(spec, tools={"/opt/x": ROOT / "nothing here"})):
        with pytest.raises(StartFailed):
            async with Sandbox.open(broken, engine=engine):
                pytest.fail("opened")
    with pytest.raises(SpecError):
        async with Sandbox.open(spec, engine=engine, lease=missing):
            pytest.fail("opened")
    assert labelled(f"massgen.test={label}") == []
    assert descriptors() == before


async def test_a_closed_sandbox_leaves_a_descriptor_or_keeps_the_loop_busy(engine: DockerEngine, spec: SandboxSpec) -> None:
    """Without any help of the garbage collector, closing gives every descriptor back, and an idle loop costs nothing."""
    await engine.facts()
    gc.collect()
    gc.disable()
    try:
        before = descriptors()
        async with Sandbox.open(spec, engine=engine) as box:
            assert (await box.run(["true"])).ok
        assert descriptors() == before
        spent = time.process_time()
        await anyio.sleep(0.2)
        assert time.process_time() - spent < 0.05
    finally:
        gc.enable()


async def test_a_flood_that_nobody_reads_delays_the_end(engine: DockerEngine, spec: SandboxSpec, label: str) -> None:
    """Both streams are flooded, nobody receives: others are answered, killing a program or closing takes < 2 s (design 2.5)."""
    async with Sandbox.open(spec, engine=engine) as box:
        async with box.spawn(FLOOD) as one, box.spawn(FLOOD) as two:
            await one.receive()
            await two.receive()
            lived = await box.run(["sleep", "0.3"], timeout_s=5)
            assert lived.reason == "exited"
            await one.kill()
            ended = await one.wait()
            assert ended.reason == "killed"
            assert lived.wall_s < ended.wall_s < lived.wall_s + FLOODED_S  # the guest's clock
            unread = box.spawn(FLOOD)
            await (await unread.__aenter__()).receive()
        began = time.monotonic()
    await unread.__aexit__(None, None, None)  # still open when the sandbox went
    assert time.monotonic() - began < FLOODED_S
    assert labelled(f"massgen.test={label}") == []
