"""The system call filter breaks nothing that people do in a sandbox: each tool chain compiles and runs something of substance.

Python, git and pytest are in the agent image. Compilers and run times are in an image made of it for these tests, once per
Dockerfile and agent image.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox import DockerEngine, Limits, Mount, Sandbox, SandboxSpec
from tests.docker.engine_view import reaches_networks

pytestmark = pytest.mark.docker

SOURCES = Path(__file__).resolve().parents[1] / "toolchains"
IN_AGENT_IMAGE = {
    "python": "python3 /toolchains/work.py",
    "git": """
        git init -q r; cd r; git config user.email a@b; git config user.name a
        echo 1 > f; git add f; git commit -qm 1; git checkout -qb side; echo 2 > f; git commit -qam 2
        git checkout -q -; git merge -q side; git gc -q; git clone -q --local . ../c; git -C ../c log --oneline | grep -c .
        git grep -q 2; git fsck; echo done""",
    "pytest": r"""
        printf '%s\n' 'import subprocess, threading' 'def test_it(tmp_path, capfd):' ' t = threading.Thread(target=print)' \
            ' t.start(); t.join()' ' assert subprocess.run("true").returncode == 0' > test_it.py
        pytest -q; echo done""",
}
IN_OWN_IMAGE = {
    "gcc": "gcc -O2 -pthread -o c /toolchains/work.c -lrt; ./c; gcc -static -O2 -pthread -o s /toolchains/work.c -lrt; ./s",
    "g++": r"""
        printf '#include <thread>\nint main() { std::thread([] {}).join(); }\n' > t.cc; g++ -flto -o t t.cc; ./t; echo done""",
    "go": "export GOCACHE=$PWD/cache; go build -o g /toolchains/work.go; ./g",
    "node": "node /toolchains/work.js",
    "java": """
        javac -d j /toolchains/Work.java
        for how in -XX:+UseSerialGC -XX:+UseParallelGC -XX:+UseG1GC -XX:+UseZGC -Xint; do java $how -cp j Work; done""",
    "make": r"printf 'all: a b c\n%%:\n\t@touch $@\n' > Makefile; make -sj4; ls a b c; echo done",
}


@pytest.fixture(scope="module")
async def engine() -> DockerEngine:
    """The real one."""
    return await DockerEngine.connect()


def spec(image: str) -> SandboxSpec:
    """An ordinary sandbox that sees the sources."""
    return SandboxSpec(
        image=image,
        mounts=(Mount(source=SOURCES, mode="ro", target="/toolchains"),),
        limits=Limits(workspace_bytes=1024**3),
        env={"HOME": "/workspace"},
    )


@pytest.fixture(scope="module")
async def plain(engine: DockerEngine, image: str) -> AsyncIterator[Sandbox]:
    """The agent image."""
    async with Sandbox.open(spec(image), engine=engine) as box:
        yield box


def build(dockerfile: bytes, base: str, tag: str) -> None:
    """The image, unless it is there already. An engine without a network is handed that of the installed one."""
    present = ["docker", "image", "inspect", tag]
    if subprocess.run(present, capture_output=True, check=False).returncode == 0:
        return
    proxies = [f"--build-arg={n}" for n in ("http_proxy", "https_proxy", "no_proxy") if n in os.environ]
    command = ["docker", "build", "--force-rm", "--network", "host", f"--build-arg=BASE={base}", *proxies, "--tag", tag, "-"]
    handed = not reaches_networks()
    installed = {name: value for name, value in os.environ.items() if not (handed and name == "DOCKER_HOST")}
    if not handed or subprocess.run(present, capture_output=True, check=False, env=installed).returncode:
        classic = installed | {"DOCKER_BUILDKIT": "0"}
        built = subprocess.run(command, input=dockerfile, capture_output=True, check=False, env=classic, timeout=900)
        assert built.returncode == 0, (built.stdout[-3000:] + built.stderr[-1000:]).decode()
    if handed:
        with subprocess.Popen(["docker", "save", tag], stdout=subprocess.PIPE, env=installed) as saving:
            subprocess.run(["docker", "load"], stdin=saving.stdout, capture_output=True, check=True, timeout=300)
        assert saving.returncode == 0


@pytest.fixture(scope="module")
async def equipped(engine: DockerEngine, image: str) -> AsyncIterator[Sandbox]:
    """The agent image with tool chains."""
    dockerfile = (SOURCES / "Dockerfile").read_bytes()
    tag = "massgen-toolchains:" + hashlib.sha256(dockerfile + (await engine.image(image)).id.encode()).hexdigest()[:12]
    build(dockerfile, image, tag)
    async with Sandbox.open(spec(tag), engine=engine) as box:
        yield box


async def works(box: Sandbox, script: str) -> None:
    """The script says `done`, and nothing went wrong on the way."""
    outcome = await box.run(["bash", "-c", f"set -e; cd $(mktemp -d -p /workspace); {script}"], timeout_s=110)
    assert (outcome.reason, outcome.exit_code) == ("exited", 0), outcome.stdout.text[-2000:] + outcome.stderr.text[-2000:]
    assert "done" in outcome.stdout.text


@pytest.mark.parametrize("tool", IN_AGENT_IMAGE)
async def test_what_every_agent_has_is_broken_by_the_filter(plain: Sandbox, tool: str) -> None:
    """Event loops, pools by fork and spawn, shared memory, merges and test runs work as they do outside."""
    await works(plain, IN_AGENT_IMAGE[tool])


@pytest.mark.slow(turn=0)  # the image is made once for all of them
@pytest.mark.parametrize("tool", IN_OWN_IMAGE)
async def test_a_tool_chain_is_broken_by_the_filter(equipped: Sandbox, tool: str) -> None:
    """Compilers, threads, collectors, compiled hot loops, every kind of descriptor and loopback servers work as outside."""
    await works(equipped, IN_OWN_IMAGE[tool])
