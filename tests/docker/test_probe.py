"""The proof of the guarantees itself: it holds on a good engine, and it is not deaf."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sandbox import DockerEngine, StartFailed
from sandbox.engines.base import Engine, EngineFacts, Link
from sandbox.guarantees import TITLES
from sandbox.plan import Plan
from sandbox.probe import probe, require
from tests.support.wrapped import Wrapped

pytestmark = pytest.mark.docker


class Careless(Wrapped):
    """A real engine whose containers lack one promise: what the probe must notice."""

    def __init__(self, real: Engine, *, loosen: str) -> None:
        super().__init__(real)
        self._loosen = loosen

    async def facts(self) -> EngineFacts:
        return replace(await self.inner.facts(), id=f"careless-{self._loosen}")

    async def start(self, plan: Plan) -> Link:
        match self._loosen:
            case "read":
                binds = tuple(replace(b, read_only=False) if b.source.endswith("/shown") else b for b in plan.binds)
                return await self.inner.start(replace(plan, binds=binds, uid=0, gid=0))
            case "memory":
                return await self.inner.start(replace(plan, memory_bytes=2 * plan.memory_bytes))
            case "processors" | "processes":
                many = replace(plan.limits, cpus=1.0) if self._loosen == "processors" else replace(plan.limits, pids=128)
                return await self.inner.start(replace(plan, limits=many))
            case "files":
                roomy = tuple(replace(t, inodes=t.inodes * 4) for t in plan.tmpfs)
                return await self.inner.start(replace(plan, tmpfs=roomy))
            case "variables":
                plan.env["SECRET"] = "x"  # what commands get is the plan's
                return await self.inner.start(plan)
            case "death":
                return Clinging(await self.inner.start(plan))
            case other:
                raise AssertionError(other)


async def test_no_guarantee_is_left_unproven(image: str):
    """On this engine every promise is seen from inside; at most the kernel's second wall is not there to be had."""
    engine = await DockerEngine.connect()
    found = await probe(engine, image)
    assert [g for g in found if g.state == "failed"] == []
    assert [g.name for g in found] == list(TITLES)
    missing = {g.name for g in found if g.state == "unavailable"}
    facts = await engine.facts()
    old = {"recursive_ro"} if facts.api in ("1.40", "1.41", "1.42", "1.43") else set()
    bare = set() if any(word in " ".join(facts.security) for word in ("apparmor", "selinux")) else {"mandatory_access_control"}
    assert missing == old | bare | {"disk_quota"}


async def test_copies_are_capped_where_that_is_asked_for(image: str):
    """What is not available for overlays is proven for copies, and so can be required."""
    engine = await DockerEngine.connect()
    assert "disk_quota" in {g.name for g in await probe(engine, image, draft="copy") if g.state == "proven"}
    await require(engine, image, draft="copy", required=["disk_quota"])
    with pytest.raises(StartFailed, match=r"disk_quota.*draft: copy"):
        await require(engine, image, draft="overlay", required=["disk_quota"])


@pytest.mark.parametrize(
    ("loosen", "noticed"),
    [
        ("read", "read_only_mounts"),
        ("memory", "memory_limit"),
        ("processors", "cpu_limit"),
        ("processes", "pid_limit"),
        ("files", "tmpfs_caps"),
        ("variables", "environment"),
        ("death", "dies_with_host"),
    ],
)
async def test_a_missing_guarantee_stops_a_run(image: str, loosen: str, noticed: str):
    """A container that does not keep a promise is told apart, and nothing starts on such an engine."""
    engine = Careless(await DockerEngine.connect(), loosen=loosen)
    failed = {g.name for g in await probe(engine, image) if g.state == "failed"}
    assert noticed in failed
    with pytest.raises(StartFailed, match=noticed):
        await require(engine, image)


async def test_a_required_guarantee_that_is_missing_stops_a_run(image: str):
    """What is merely not available here stops whoever requires it, by name and with what to do; a proven one stops nobody."""
    without = Lacking(await DockerEngine.connect())
    with pytest.raises(StartFailed, match=r"mandatory_access_control.*second wall.*sandbox\.require"):
        await require(without, image, required=["no_network", "mandatory_access_control"])
    await require(without, image, required=["no_network", "seccomp"])


async def test_an_unknown_runtime_is_replaced_by_another(image: str):
    """It is refused, saying which the engine has, and nothing is started."""
    with pytest.raises(StartFailed, match=r"no runtime nosuch \(it has: .*runc"):
        await probe(await DockerEngine.connect(), image, runtime="nosuch")


async def test_a_runtime_that_runs_on_the_hosts_kernel_passes_for_gvisor(image: str):
    """A runtime that calls itself runsc, and lets commands meet this machine's kernel, is not proven."""
    found = await probe(Pretending(await DockerEngine.connect()), image, runtime="runsc")
    assert [g.name for g in found if g.state == "failed"] == ["runtime"]


async def test_a_proof_is_remembered_for_this_boot_and_image(image: str):
    """The second run does not pay for it again: no container is started."""
    engine = Counting(await DockerEngine.connect())
    await require(engine, image)
    engine.started = 0
    await require(engine, image)
    assert engine.started == 0


class Clinging:
    """A link whose container outlives its host."""

    def __init__(self, real: Link) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def let_go(self, patience_s: float) -> float | None:
        return None


class Counting(Wrapped):
    """Counts containers."""

    def __init__(self, real: Engine) -> None:
        super().__init__(real)
        self.started = 0

    async def start(self, plan: Plan) -> Link:
        self.started += 1
        return await self.inner.start(plan)


class Lacking(Counting):
    """An engine whose kernel has no second wall."""

    async def facts(self) -> EngineFacts:
        return replace(await self.inner.facts(), id="lacking", security=())


class Pretending(Counting):
    """Takes any runtime's name, and starts its own."""

    async def start(self, plan: Plan) -> Link:
        return await self.inner.start(replace(plan, runtime=""))
