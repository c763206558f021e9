"""The agents' images by the path that a user of the wheel has: built from what is shipped, usable in a sandbox at once."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sandbox import DockerEngine, Sandbox, SandboxSpec
from sandbox.engines.images import BASE_LABEL, VARIANT_LABEL
from tests.support.boxes import SMALL

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[2]
WORKS = {
    "python": "python3 -m pip --version; python3 -m pytest --version; git --version; rg --version",
    "node": "node -e 'console.log(6 * 7)' | grep 42; npm --version; python3 -m pip --version",
    "build": """
        printf 'all:\\n\\tcc -o c c.c `pkg-config --cflags python3`\\n' > Makefile
        printf '#include <Python.h>\\nint main(void) { return 0; }\\n' > c.c
        make; ./c; printf 'int main() {}' > d.cc; g++ -o d d.cc; ./d; cmake --version; rg --version""",
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that this tree builds, as pip would put it on a machine without a clone."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        archive.extractall(out / "site")
    return out / "site"


def docker(*words: str) -> str:
    """What the engine's own client says; fails when it fails."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def own_base(image: str) -> Iterator[str]:
    """The agent image under a name nobody has built on."""
    name = f"massgen-test-base:{secrets.token_hex(6)}"
    docker("tag", image, name)
    yield name
    docker("image", "rm", name)


@pytest.fixture
async def engine() -> AsyncIterator[DockerEngine]:
    """The real one."""
    return await DockerEngine.connect()


def build(unpacked: Path, tmp_path: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`massgen images build` of the wheel, away from the clone."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MASSGEN_")} | {"PYTHONPATH": str(unpacked), **more}
    command = [sys.executable, "-m", "massgen", "images", "build", *words]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=230)


def ids(reference: str) -> set[str]:
    """Names of images."""
    return set(docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", reference).split())


async def works(engine: DockerEngine, image: str, script: str) -> None:
    """The script runs in a sandbox of that image."""
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine) as box:
        outcome = await box.run(["bash", "-ec", f"cd /workspace; {script}"])
    assert outcome.ok, outcome.stdout.text + outcome.stderr.text


async def test_the_wheel_cannot_build_what_its_own_messages_name(
    engine: DockerEngine, unpacked: Path, own_base: str, image: str, tmp_path: Path
) -> None:
    """The default image on a named base: labelled, listed, usable, built once; `massgen-agent` stays as it is."""
    latest = docker("image", "inspect", "-f", "{{.Id}}", image)
    name = f"massgen-test-image:{secrets.token_hex(6)}"
    made = {name}
    try:
        built = build(unpacked, tmp_path, "--base", own_base, "--tag", name)
        assert (built.returncode, built.stdout) == (0, name + "\n"), built.stderr
        (row,) = [row for row in await engine.images().ours() if name in row.tags]
        made.update(row.tags)
        assert (row.labels[VARIANT_LABEL], row.labels[BASE_LABEL]) == ("python", own_base)
        assert docker("image", "inspect", "-f", "{{.Id}}", image) == latest
        again = build(unpacked, tmp_path, "--base", own_base, "--tag", name)
        assert (again.returncode, again.stdout, again.stderr) == (0, name + "\n", "")
        await works(engine, name, WORKS["python"])
    finally:
        docker("image", "rm", *made)


def test_an_image_keeps_what_its_builder_knows(unpacked: Path, own_base: str, tmp_path: Path) -> None:
    """Proxies with their passwords reach the build, and neither the image's variables nor its history."""
    name = f"massgen-test-image:{secrets.token_hex(6)}"
    secret = secrets.token_hex(8)
    made = {name}
    try:
        built = build(unpacked, tmp_path, "--base", own_base, "--tag", name, http_proxy=f"http://me:{secret}@127.0.0.1:9")
        assert built.returncode == 0, built.stderr
        (about,) = json.loads(docker("image", "inspect", name))
        made.update(about["RepoTags"])
        assert secret not in json.dumps(about) + docker("history", "--no-trunc", name)
        assert own_base in json.dumps(about)  # the control: what an image keeps is seen here
    finally:
        docker("image", "rm", *made)


def test_a_build_that_fails_leaves_a_name(unpacked: Path, tmp_path: Path) -> None:
    """A base that is not there, a second variant for one name: said with the right exit code, and no image has the name."""
    name = f"massgen-test-image:{secrets.token_hex(6)}"
    missing = build(unpacked, tmp_path, "--base", "massgen-test-base:never", "--tag", name)
    assert missing.returncode == 125
    assert "could not be built on massgen-test-base:never" in missing.stderr
    assert build(unpacked, tmp_path, "--tag", name, "python", "node").returncode == 2
    assert ids("massgen-test-image") & {name} == set()


@pytest.mark.parametrize("variant", [pytest.param(name, marks=pytest.mark.slow(turn=n)) for n, name in enumerate(WORKS, start=3)])
async def test_a_variant_lacks_what_it_is_for(engine: DockerEngine, unpacked: Path, variant: str, tmp_path: Path) -> None:
    """Each variant as its name promises, by the path of a machine with or without a registry, kept as bootstrap keeps its own."""
    built = build(unpacked, tmp_path, variant)
    assert built.returncode == 0, built.stderr
    await works(engine, built.stdout.strip(), WORKS[variant])
