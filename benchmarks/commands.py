"""One command: in a sandbox, on the host, by `docker exec`, in turn; then in 1, 2, 4 and 8 sandboxes busy at once."""

from __future__ import annotations

import math
import os
import time
from contextlib import AsyncExitStack

import anyio

from benchmarks.ratios import IMAGE, Row, p50, p95, quietly, since, timed
from sandbox import DockerEngine, Limits, Sandbox, SandboxSpec

BUSY = (1, 2, 4, 8)
HOST = "`subprocess.run` on the host"
PYTHON = ("/usr/bin/python3", "-c", "pass")
BARE = """
import os, statistics, time
def once():
    began = time.perf_counter()
    os.waitpid(os.posix_spawn("/usr/bin/true", ["true"], {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}), 0)
    return (time.perf_counter() - began) * 1000
print(statistics.median(once() for _ in range(200)))
"""
SMALL = Limits(memory_bytes=128 * 1024**2)


async def measure(engine: DockerEngine, *, quick: bool) -> list[Row]:
    """All rows about commands."""
    return await _alone(engine, 150 if quick else 600) + await _busy(engine, 40 if quick else 150)


async def _alone(engine: DockerEngine, rounds: int) -> list[Row]:
    ours: list[float] = []
    host: list[float] = []
    docker_exec: list[float] = []
    trips: list[float] = []
    python: tuple[list[float], list[float]] = [], []
    name = f"massgen-bench-{os.getpid()}"
    quietly("docker", "run", "-d", "--rm", "--network", "none", "--name", name, "--entrypoint", "sleep", IMAGE, "600")
    try:
        async with Sandbox.open(SandboxSpec(image=IMAGE), engine=engine) as box:
            await one(box)
            bare = [await _bare(box)]
            for number in range(rounds):
                trips.append(await _trip(box))
                ours.append(await one(box))
                host.append(timed(lambda: quietly("true")))
                if number % 10 == 0:
                    docker_exec.append(timed(lambda: quietly("docker", "exec", name, "true")))
                    await one(box)  # caches are cold after that; it would be the only one that pays
                    quietly("true")
                    python[0].append(await one(box, *PYTHON))
                    python[1].append(timed(lambda: quietly(*PYTHON)))
            bare.append(await _bare(box))
    finally:
        quietly("docker", "rm", "-f", name)
    middle, high = p50(ours), p95(ours)
    return [
        Row(what="command `true`", ours=middle, p95=high, baseline=HOST, base=p50(host), limit=1.3),
        Row(what="command `true`", ours=middle, baseline="`docker exec`", base=p50(docker_exec), limit=40, sense="at least"),
        Row(what="command `true`, p95", ours=high, baseline="its own median", base=middle, limit=2),
        Row(what="command `python3 -c pass`", ours=p50(python[0]), p95=p95(python[0]), baseline=HOST, base=p50(python[1])),
        Row(what="of `true`: the stream there and back, no command", ours=p50(trips), baseline=HOST, base=p50(host)),
        Row(what="of `true`: `posix_spawn` and wait in the container, by itself", ours=p50(bare), baseline=HOST, base=p50(host)),
        Row(what="`subprocess.run` on the host, p95", ours=p95(host), baseline="its own median", base=p50(host)),
    ]


async def _trip(box: Sandbox) -> float:
    """Milliseconds of a request that the guest answers at once."""
    began = time.perf_counter()
    await box.go()
    return since(began)


async def _bare(box: Sandbox) -> float:
    """Milliseconds of a program started and waited for inside, with nothing of ours in between."""
    outcome = await box.run(["python3", "-I", "-S", "-c", BARE])
    assert outcome.ok, outcome
    return float(outcome.stdout.text)


async def one(box: Sandbox, *argv: str) -> float:
    """Milliseconds of one command, by itself one that does nothing."""
    began = time.perf_counter()
    outcome = await box.run(argv or ("true",))
    took = since(began)
    assert outcome.ok, outcome
    return took


async def _busy(engine: DockerEngine, rounds: int) -> list[Row]:
    """Every sandbox runs commands back to back; the numbers take turns, so that a slow moment hits all of them."""
    found: dict[int, list[float]] = {n: [] for n in BUSY}
    async with AsyncExitStack() as stack:
        boxes = [
            await stack.enter_async_context(Sandbox.open(SandboxSpec(image=IMAGE, limits=SMALL), engine=engine))
            for _ in range(max(BUSY))
        ]
        for box in boxes:
            await one(box)
        for _ in range(5):
            for n in BUSY:
                async with anyio.create_task_group() as tasks:
                    for box in boxes[:n]:
                        tasks.start_soon(_work, box, rounds // 5, found[n])
    cores = os.cpu_count() or 1
    alone = p50(found[1])
    return [
        Row(
            what=f"command, {n} sandboxes busy at once",
            ours=p50(found[n]),
            p95=p95(found[n]),
            baseline="one sandbox",
            base=alone,
            limit=2 * math.ceil(n / cores),
        )
        for n in BUSY[1:]
    ]


async def _work(box: Sandbox, rounds: int, found: list[float]) -> None:
    found += [await one(box) for _ in range(rounds)]
