"""How many bytes a second cross, each way: output and input of a command, and the contents of large files."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from benchmarks.ratios import IMAGE, Row, p50
from sandbox import WORKSPACE, DockerEngine, Limits, Sandbox, SandboxSpec, Store
from sandbox.spec import GIB, MIB

PROMISED = 300
LIMITS = Limits(memory_bytes=2 * GIB, workspace_bytes=2 * GIB)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
CHUNK = bytes(256 * 1024)


async def measure(engine: DockerEngine, *, quick: bool) -> list[Row]:
    """All rows about throughput."""
    size = (64 if quick else 512) * MIB
    rounds = 3 if quick else 5
    out: list[float] = []
    plain: list[float] = []
    into: list[float] = []
    async with Sandbox.open(SandboxSpec(image=IMAGE, limits=LIMITS), engine=engine) as box:
        for _ in range(rounds):
            out.append(await _rate(size, box.run(["head", "-c", str(size), "/dev/zero"])))
            plain.append(_docker(size))
            into.append(await _rate(size, box.run(["sh", "-c", "cat > /dev/null"], stdin=_zeros(size))))
    stored, applied = await _files(engine, size // 2, rounds)
    return [
        _row("output of a command", out),
        Row(what="of output: the same through `docker run`, read and dropped", ours=p50(plain), unit="MB/s"),
        _row("input of a command", into),
        _row("one large file, snapshot into a store in memory", stored),
        _row("one large file, applied from a store in memory", applied),
    ]


def _row(what: str, rates: list[float]) -> Row:
    return Row(what=what, ours=p50(rates), unit="MB/s", limit=PROMISED, sense="at least")


def _docker(size: int) -> float:
    """The engine's own stream with its own client, from the first byte on: how fast this machine can be."""
    argv = ["docker", "run", "--rm", "--log-driver", "none", IMAGE, "head", "-c", str(size), "/dev/zero"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        left = size - len(running.stdout.read1(len(CHUNK)))
        began, rest = time.perf_counter(), left
        while piece := running.stdout.read1(len(CHUNK)):
            left -= len(piece)
        took = time.perf_counter() - began
    assert not running.returncode
    assert not left
    return rest / took / 1e6


async def _zeros(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // len(CHUNK)):
        yield CHUNK


async def _rate(size: int, running) -> float:  # noqa: ANN001 - any coroutine with an Outcome
    began = time.perf_counter()
    outcome = await running
    took = time.perf_counter() - began
    assert outcome.ok, outcome
    return size / took / 1e6


async def _files(engine: DockerEngine, size: int, rounds: int) -> tuple[list[float], list[float]]:
    """In memory, because the disk of a machine is not what is measured here.

    In the same memory each time: a virtual machine that touches some for the first time waits for its host.
    """
    stored: list[float] = []
    applied: list[float] = []
    with tempfile.TemporaryDirectory(prefix="massgen-bench-", dir=MEMORY) as name:
        for number in range(rounds):
            place = Path(name) / f"store{number}"
            store = Store(place)
            async with Sandbox.open(SandboxSpec(image=IMAGE, limits=LIMITS), engine=engine) as box:
                made = await box.run(["sh", "-c", f"head -c {size} /dev/urandom > blob"], cwd=WORKSPACE)
                assert made.ok, made
                began = time.perf_counter()
                snapshot = await box.snapshot(store)
                stored.append(size / (time.perf_counter() - began) / 1e6)
                assert snapshot.entries[0].size == size
            async with Sandbox.open(SandboxSpec(image=IMAGE, limits=LIMITS), engine=engine) as box:
                began = time.perf_counter()
                await box.apply(replace(snapshot), store)
                applied.append(size / (time.perf_counter() - began) / 1e6)
            shutil.rmtree(place)
    return stored, applied
