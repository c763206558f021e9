"""The proof of the guarantees itself: it holds on a good engine, and it is not deaf."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox import DockerEngine, StartFailed
from sandbox.engines.base import Engine, EngineFacts, ImageFacts, Link
from sandbox.plan import Plan
from sandbox.probe import probe, require

pytestmark = pytest.mark.docker


class Careless:
    """A real engine whose containers lack one promise: what the probe must notice."""

    def __init__(self, real: Engine, *, loosen: str) -> None:
        self._real = real
        self._loosen = loosen

    async def facts(self) -> EngineFacts:
        return replace(await self._real.facts(), id=f"careless-{self._loosen}")

    async def image(self, name: str) -> ImageFacts:
        return await self._real.image(name)

    async def start(self, plan: Plan) -> Link:
        match self._loosen:
            case "read":
                binds = tuple(replace(b, read_only=False) if b.source.endswith("/shown") else b for b in plan.binds)
                return await self._real.start(replace(plan, binds=binds, uid=0, gid=0))
            case "memory":
                return await self._real.start(replace(plan, memory_bytes=2 * plan.memory_bytes))
            case other:
                raise AssertionError(other)

    async def reap(self) -> tuple[str, ...]:
        return await self._real.reap()


async def test_no_guarantee_is_left_unproven(image: str):
    """On this engine every promise is seen from inside; at most the kernel's second wall is not there to be had."""
    found = await probe(await DockerEngine.connect(), image)
    assert [g for g in found if g.state == "failed"] == []
    assert {g.name for g in found if g.state == "unavailable"} <= {"mandatory access control"}


@pytest.mark.parametrize(
    ("loosen", "noticed"),
    [("read", "read paths read-only"), ("memory", "memory and process limits")],
)
async def test_a_missing_guarantee_stops_a_run(image: str, loosen: str, noticed: str):
    """A container that does not keep a promise is told apart, and nothing starts on such an engine."""
    engine = Careless(await DockerEngine.connect(), loosen=loosen)
    failed = {g.name for g in await probe(engine, image) if g.state == "failed"}
    assert noticed in failed
    with pytest.raises(StartFailed, match=noticed):
        await require(engine, image)


async def test_a_proof_is_remembered_for_this_boot_and_image(image: str):
    """The second run does not pay for it again: no container is started."""
    engine = Counting(await DockerEngine.connect())
    await require(engine, image)
    engine.started = 0
    await require(engine, image)
    assert engine.started == 0


class Counting(Careless):
    """Counts containers."""

    def __init__(self, real: Engine) -> None:
        super().__init__(real, loosen="nothing")
        self.started = 0

    async def facts(self) -> EngineFacts:
        return await self._real.facts()

    async def start(self, plan: Plan) -> Link:
        self.started += 1
        return await self._real.start(plan)
