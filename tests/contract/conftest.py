"""What must keep a contract: engines, the fake one and the real one, never told apart by a test's wording; and models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sandbox import DockerEngine, Engine
from sandbox.store import Store
from sandbox.testing import FakeEngine
from tests.support.adapters import ADAPTERS, Open
from tests.support.boxes import Boxes, OverlayBoxes
from tests.support.fake_provider import FakeProvider, fake_provider
from tests.support.scripted_run import Play, Run, make_project

KINDS = ("fake", *(pytest.param(kind, marks=pytest.mark.docker) for kind in ("docker", "overlay")))
"""For what drafts promise: `docker` makes copies of root's projects, `overlay` lays layers over those of a user."""


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.docker)])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """One suite, every engine."""
    return FakeEngine(tmp_path / "boxes") if request.param == "fake" else await DockerEngine.connect()


@pytest.fixture
def boxes(engine: Engine, image: str, tmp_path: Path) -> Boxes:
    """Opens sandboxes of the engine under test."""
    return Boxes(engine, image, tmp_path)


@pytest.fixture(params=KINDS)
async def drafts(request: pytest.FixtureRequest, image: str, tmp_path: Path) -> Boxes:
    """The same for every kind of draft."""
    return await _boxes(request.param, image, tmp_path)


async def _boxes(name: str, image: str, folder: Path) -> Boxes:
    engine = FakeEngine(folder / "boxes") if name == "fake" else await DockerEngine.connect()
    kind = OverlayBoxes if name == "overlay" else Boxes
    return kind(engine, image, folder)


@pytest.fixture(params=(*KINDS[:2], pytest.param("overlay", marks=[pytest.mark.docker, pytest.mark.slow])))
async def written(request: pytest.FixtureRequest, image: str, tmp_path: Path) -> Boxes:
    """The same for what leases write: whoever owns the project, and whatever kind of draft it was made in."""
    return await _boxes(request.param, image, tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project with a bug, a test and a secret."""
    return make_project(tmp_path)


@pytest.fixture
def make(tmp_path: Path, project: Path) -> Callable[..., Run]:
    """Puts a run of scripted sessions together, over the fake engine and that project."""

    def build(plays: Mapping[str, Play], **more: object) -> Run:
        return Run(folder=tmp_path, engine=FakeEngine(tmp_path / "boxes"), project=project, plays=plays, **more)

    return build


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider of models on this machine."""
    with fake_provider() as provider:
        yield provider


@pytest.fixture(params=ADAPTERS, ids=lambda opener: opener.__name__)
def opener(request: pytest.FixtureRequest) -> Open:
    """Each adapter in turn."""
    return request.param
