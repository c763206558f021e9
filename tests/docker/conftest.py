"""What several suites on real containers share: another user of this machine, an ear at the engine, a private engine to hurt."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import account as accounts
from tests.support.listener import Listener
from tests.support.private_engine import PrivateEngine, unable


@pytest.fixture(scope="package")
def account() -> Iterator[pwd.struct_passwd]:
    """The user; removed afterwards."""
    if os.getuid() != 0 or not shutil.which("useradd"):
        pytest.skip("making a user takes root and useradd; every other test runs as the caller anyway")
    if not accounts.SOCKET.exists():
        pytest.skip(f"{accounts.SOCKET} is not there: another user would need the engine's address")
    made = accounts.add()
    try:
        yield made
    finally:
        accounts.remove()


@pytest.fixture(scope="package")
def installed() -> Iterator[Path]:
    """A folder with the product in `lib`, below /tmp itself: the test folders of root are closed to others."""
    with tempfile.TemporaryDirectory(prefix="massgen-test-", dir="/tmp") as name:
        base = Path(name).resolve()
        base.chmod(0o755)
        accounts.copy_packages(base / "lib")
        yield base


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Hears what the engine creates meanwhile."""
    listening = Listener()
    yield listening
    listening.close()


@pytest.fixture(scope="session")
def private_engine(image: str) -> Iterator[PrivateEngine]:
    """With the agent image."""
    if why := unable():
        pytest.skip(why)
    with PrivateEngine() as engine:
        engine.bring(image)
        yield engine


@pytest.fixture(scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is remembered of private engines, which nobody needs again."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def private(private_engine: PrivateEngine, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateEngine]:
    """Up, with nothing on it; for processes that are started meanwhile, too, the cache is another one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(private_cache))
    private_engine.renew()
    yield private_engine
    private_engine.renew()
    private_engine.empty()
