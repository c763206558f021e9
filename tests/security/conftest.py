"""One engine and one ordinary sandbox for all attempts of a module: opening is the slow part, attempts are cheap."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox import AGENT_UID, DockerEngine, Engine, Mount, Sandbox, SandboxSpec, Store
from tests.security.attack import SMALL

SECRET = "canary-of-a-withheld-file"


@pytest.fixture(scope="module")
async def engine() -> Engine:
    """The real one."""
    return await DockerEngine.connect()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`read`, `draft`, `peers` and, shown to nobody, `sibling`; all writable for the user inside, so that only mounts deny."""
    base = tmp_path_factory.mktemp("place").resolve()
    for name in ("read", "draft"):
        folder = base / name
        (folder / "sub" / "deep").mkdir(parents=True)
        (folder / "empty").mkdir()
        (folder / ".git").mkdir()
        (folder / ".git" / "config").write_text(SECRET)
        for file in ("file", "two", "sub/file"):
            (folder / file).write_text("original")
        (folder / ".env").write_text(SECRET)
        (folder / "keys").mkdir()
        (folder / "keys" / "id").write_text(SECRET)
        (folder / "out").symlink_to(base / "sibling" / "secret")
    for name in ("peers", "sibling"):
        (base / name).mkdir()
        (base / name / "secret").write_text(SECRET)
    own(base)
    return base


def own(folder: Path) -> None:
    """Give a folder to the user inside: then a denial comes from the mount, not from permission bits."""
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, AGENT_UID, AGENT_UID, follow_symlinks=False)


@pytest.fixture(scope="module")
async def box(engine: Engine, image: str, place: Path) -> AsyncIterator[Sandbox]:
    """Read path, draft and peers, with `.env` and `keys` withheld."""
    hidden = (".env", "keys")
    mounts = (
        Mount(source=place / "read", mode="ro", withhold=hidden),
        Mount(source=place / "draft", mode="draft", withhold=hidden),
    )
    async with Sandbox.open(
        SandboxSpec(image=image, mounts=mounts, peers=place / "peers", limits=SMALL), engine=engine
    ) as opened:
        yield opened
