"""An engine around another: tests that change one thing of it say that one thing."""

from __future__ import annotations

from pathlib import Path

from sandbox import Engine, ImageFacts, Link
from sandbox.engines.base import EngineFacts
from sandbox.engines.images import Images
from sandbox.plan import Plan


class Wrapped:
    """Passes everything on."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner

    async def facts(self) -> EngineFacts:
        return await self.inner.facts()

    async def image(self, name: str) -> ImageFacts:
        return await self.inner.image(name)

    def images(self) -> Images:
        return self.inner.images()

    async def start(self, plan: Plan) -> Link:
        return await self.inner.start(plan)

    async def sweep(self, folder: Path, image: str) -> None:
        await self.inner.sweep(folder, image)

    async def alive(self) -> bool:
        return await self.inner.alive()

    async def reap(self) -> tuple[str, ...]:
        return await self.inner.reap()
