"""A guest that no longer answers, because it is starved or stopped, costs its caller one bounded wait, not one after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from sandbox import Link, Sandbox, SandboxLost, SandboxSpec
from sandbox.plan import Plan
from sandbox.testing import FakeEngine
from tests.support.wrapped import Wrapped


class Deaf:
    """A link whose other end hears nothing once `deaf` is set, and so says nothing."""

    def __init__(self, inner: Link) -> None:
        self.inner = inner
        self.container = inner.container
        self.deaf = False

    def offer(self, data: bytes) -> int:
        return len(data) if self.deaf else self.inner.offer(data)

    async def send(self, data: bytes) -> None:
        await self.inner.send(data)

    async def pump(self, take: Callable[[bytes | memoryview], None]) -> None:
        await self.inner.pump(take)

    def last_words(self) -> str:
        return self.inner.last_words()

    async def aclose(self) -> None:
        await self.inner.aclose()


class DeafEngine(Wrapped):
    """The fake engine with deaf links; `answers` is what it says when it is asked whether it lives."""

    def __init__(self, folder: Path, *, answers: bool) -> None:
        super().__init__(FakeEngine(folder))
        self.answers = answers
        self.links: list[Deaf] = []

    async def start(self, plan: Plan) -> Link:
        self.links.append(Deaf(await self.inner.start(plan)))
        return self.links[-1]

    async def alive(self) -> bool:
        return self.answers


@pytest.mark.parametrize(("answers", "reason"), [(True, "lost"), (False, "engine")])
async def test_a_deaf_guest_makes_its_caller_wait_twice(tmp_path: Path, answers: bool, reason: str) -> None:
    """A command ends within a grace of its deadline, as the loss of an engine that does not answer; the next ends at once."""
    engine = DeafEngine(tmp_path / "boxes", answers=answers)
    async with Sandbox.open(SandboxSpec(image="fake"), engine=engine) as box:
        assert (await box.run(["true"])).ok
        engine.links[0].deaf = True
        with anyio.fail_after(9):
            outcome = await box.run(["true"], timeout_s=0.1)
        assert (outcome.reason, outcome.shell_code) == (reason, 125)
        assert "deadline" in outcome.why
        with anyio.fail_after(2):
            assert (await box.run(["true"])).reason == reason
            with pytest.raises(SandboxLost) as caught:
                await box.read("/etc/passwd")
    assert caught.value.cause == reason
