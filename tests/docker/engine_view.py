"""What the engine itself says, asked past the product: a bug there must not hide from the tests."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import docker
from docker.utils import kwargs_from_env

from tests.support.user import BOUND, ROOT


@contextlib.contextmanager
def client() -> Iterator[Any]:
    """The SDK, closed afterwards."""
    opened = docker.APIClient(version="auto", timeout=30, **kwargs_from_env())
    try:
        yield opened
    finally:
        opened.close()


def labelled(label: str) -> list[str]:
    """Ids of all containers, running or not, that carry a label."""
    with client() as engine:
        return [c["Id"] for c in engine.containers(all=True, filters={"label": label})]


def reaches_networks() -> bool:
    """Whether containers of this engine can have any: one that stands beside another has no bridge."""
    with client() as engine:
        return "bridge" in [network["Name"] for network in engine.networks()]


def left_of(run: str, home: Path) -> list[str]:
    """Ids of all containers of a run, but for those that show another home's files: runs elsewhere may have the same name."""
    with client() as engine:
        found = engine.containers(all=True, filters={"label": f"massgen.run={run}"})
    shown = {c["Id"]: [mount["path"] for mount in json.loads(c["Labels"]["massgen.mounts"])] for c in found}
    return [name for name, paths in shown.items() if not paths or any(Path(path).is_relative_to(home) for path in paths)]


async def gone(label: str, *, within_s: float = 3) -> float | None:
    """Seconds until no container carries the label; None when some are left."""
    began = time.monotonic()
    while time.monotonic() - began < within_s:
        if not await anyio.to_thread.run_sync(labelled, label):
            return time.monotonic() - began
        await anyio.sleep(0.05)
    return None


@contextlib.contextmanager
def host(program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A host process of its own, running `async def main(argv)` of a program; killed at the end."""
    source = f"import sys, anyio\nfrom sandbox import *\n{program}\nanyio.run(main, sys.argv[1:])\n"
    process = subprocess.Popen(
        [*BOUND, sys.executable, "-c", source, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a host process says; fails when it ended instead."""
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    assert said, f"the host process ended with {process.wait(10)}"
    return said
