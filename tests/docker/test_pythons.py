"""The guest keeps its promises on every Python it claims, not only on the one of the agent image.

Roots of other releases are made of Debian's and Ubuntu's packages by mmdebstrap: their Pythons are what people's images have,
patches of the distribution included.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from sandbox import WORKSPACE, DockerEngine, Mount, Store
from tests.docker.engine_view import client, gone, host, labelled, line
from tests.security.attack import SMALL
from tests.support.boxes import Boxes, seen

pytestmark = pytest.mark.docker

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# A mirror that stands still for weeks is good enough here.
DEBIAN = "deb [signed-by={keyring} check-valid-until=no] http://deb.debian.org/debian {suite} main"
UBUNTU = "deb [signed-by={keyring}] http://archive.ubuntu.com/ubuntu {suite} main"
PYTHONS = {
    "bullseye": (DEBIAN, (3, 9)),
    "jammy": (UBUNTU, (3, 10)),
    "noble": (UBUNTU, (3, 12)),
    "trixie": (DEBIAN, (3, 13)),
    "sid": (DEBIAN, (3, 14)),  # or newer: it moves on
}
NO_MUSL = pytest.mark.skip(reason="musl: no release of Debian or Ubuntu has a Python built against it")
SUITES = [
    *(pytest.param(suite, marks=pytest.mark.slow(turn=n)) for n, suite in enumerate(PYTHONS, start=6)),
    pytest.param("musl", marks=NO_MUSL),
]
HOST = """
async def main(argv):
    label, image = argv
    spec = SandboxSpec(image=image, labels={"massgen.test": label})
    async with Sandbox.open(spec, engine=await DockerEngine.connect()) as box:
        async with box.spawn(["sleep", "600"]):
            print("up", flush=True)
            await anyio.sleep(600)
"""


def make(source: str, suite: str, *options: str) -> subprocess.Popen[bytes]:
    """mmdebstrap, with the root as a tar stream on its stdout."""
    # apt's own user cannot read keys below a test's private folder.
    common = ("--quiet", '--aptopt=APT::Sandbox::User "root"', "--dpkgopt=path-exclude=/usr/share/doc/*")
    return subprocess.Popen(
        ["mmdebstrap", *common, *options, suite, "-", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ubuntus_keyring(folder: Path) -> Path:
    """Ubuntu's keys as Debian vouches for them; none of this machine's package sources has them."""
    installed = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
    if installed.exists():
        return installed
    options = ("--variant=extract", "--include=ubuntu-archive-keyring", "--format=tar")
    made = make(DEBIAN.format(keyring=KEYRING, suite="trixie"), "trixie", *options)
    tar, said = made.communicate(timeout=120)
    if made.returncode:
        pytest.skip(f"no mirror offers Ubuntu's keys: {said.decode()[-200:]}")
    subprocess.run(["tar", "-xC", str(folder), "./usr/share/keyrings"], input=tar, check=True)
    return folder / "usr/share/keyrings/ubuntu-archive-keyring.gpg"


@pytest.fixture
def python_image(suite: str, tmp_path: Path) -> Iterator[str]:
    """An image of that release with its python3 and nothing else; gone after the test."""
    if shutil.which("mmdebstrap") is None or not KEYRING.exists() or os.geteuid() != 0:
        pytest.skip("roots of other releases take mmdebstrap, Debian's keys and root")
    source, _ = PYTHONS[suite]
    keyring = KEYRING if source == DEBIAN else ubuntus_keyring(tmp_path)
    name = f"massgen-test-python:{suite}-{secrets.token_hex(4)}"
    made = make(source.format(keyring=keyring, suite=suite), suite, "--variant=essential", "--include=python3")
    assert made.stdout is not None
    assert made.stderr is not None
    try:
        imported = subprocess.run(
            ["docker", "import", "-", name], stdin=made.stdout, capture_output=True, check=False, timeout=200
        )
        said = made.stderr.read().decode()
        if made.wait(10) != 0:
            pytest.skip(f"the mirror does not give {suite}: {said[-300:]}")
        assert imported.returncode == 0, imported.stderr.decode()
        yield name
    finally:
        made.kill()
        made.wait(10)
        made.stdout.close()
        made.stderr.close()
        subprocess.run(["docker", "image", "rm", name], capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("suite", SUITES)
async def test_a_python_that_is_promised_breaks_the_guest(suite: str, python_image: str, tmp_path: Path) -> None:
    """Run, spawn, limits, snapshot, apply, undo, and death with the host: all of it holds on each Python from 3.9 on."""
    engine = await DockerEngine.connect()
    boxes = Boxes(engine, python_image, tmp_path)
    wanted = PYTHONS[suite][1]
    root = boxes.project(files={"edit.txt": "old", "gone.txt": "gone", "keep.txt": "keep"})
    store = Store(tmp_path / "store")
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root), limits=SMALL) as box:
        outcome = await box.run(["python3", "-c", "import sys; print(*sys.version_info[:2]); sys.exit(7)"])
        version = tuple(map(int, outcome.stdout.text.split()))
        assert (outcome.reason, outcome.exit_code) == ("exited", 7)
        assert version == wanted or (suite == "sid" and version > wanted)
        async with box.spawn(["cat"]) as process:
            await process.send(b"hello")
            assert await process.receive() == (1, b"hello")
            await process.kill()
            assert (await process.wait()).reason == "killed"
        assert (await box.run(["python3", "-c", "x = []\nwhile True: x.append(b'x' * (1 << 20))"])).reason == "oom"
        assert (await box.run(["sleep", "60"], timeout_s=0.5)).reason == "timeout"
        bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(60)"
        assert (await box.run(["python3", "-c", bomb], timeout_s=1.5)).reason == "timeout"
        assert (await box.run(["sh", "-ec", "printf new > edit.txt; rm gone.txt; mkdir d; ln -s ../keep.txt d/link"])).ok
        snapshot = (await box.snapshot(store)).without(WORKSPACE)
        (container,) = made_from(python_image)
        async with box.spawn(["sleep", "600"]) as process:
            with client() as docker:
                docker.kill(container)
            assert (await process.wait()).reason == "lost"
    assert {e.path: e.kind for e in snapshot.entries} == {"edit.txt": "file", "gone.txt": "gone", "d": "dir", "d/link": "link"}
    assert (root / "edit.txt").read_text() == "old"
    undo = await boxes.commit(snapshot, store, seen(snapshot), root)
    assert ((root / "edit.txt").read_text(), (root / "d/link").read_text(), (root / "gone.txt").exists()) == (
        "new",
        "keep",
        False,
    )
    await boxes.commit(undo, store, seen(undo), root, purpose="undo")
    assert {p.name: p.read_text() for p in root.iterdir() if p.is_file()} == {
        "edit.txt": "old",
        "gone.txt": "gone",
        "keep.txt": "keep",
    }
    label = secrets.token_hex(8)
    with host(HOST, label, python_image) as process:
        assert await anyio.to_thread.run_sync(line, process) == "up"
        assert len(labelled(f"massgen.test={label}")) == 1
        process.kill()
        assert await gone(f"massgen.test={label}") is not None


def made_from(image: str) -> list[str]:
    """The containers of an image, asked for in one request: a neighbour's may vanish at any moment."""
    with client() as docker:
        return [str(found["Id"]) for found in docker.containers(all=True, filters={"ancestor": image})]
