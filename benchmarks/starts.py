"""From nothing to the first result, and from nothing to gone, against `docker run --rm --network none IMAGE true`."""

from __future__ import annotations

import sys
import time

from benchmarks.ratios import IMAGE, ROOT, Row, p50, p95, quietly, since, timed
from sandbox import DockerEngine, Sandbox, SandboxSpec


async def measure(engine: DockerEngine, *, quick: bool) -> list[Row]:
    """All rows about starting. The engine is connected once, as a program does that opens more than one sandbox."""
    first: list[float] = []
    gone: list[float] = []
    docker_run: list[float] = []
    whole: list[float] = []
    for number in range(6 if quick else 20):
        began = time.perf_counter()
        async with Sandbox.open(SandboxSpec(image=IMAGE), engine=engine) as box:
            assert (await box.run(["true"])).ok
            answered = since(began)
        closed = since(began)
        theirs = timed(lambda: quietly("docker", "run", "--rm", "--network", "none", "--entrypoint", "true", IMAGE))
        if number:  # the first of each fills caches
            first.append(answered)
            gone.append(closed)
            docker_run.append(theirs)
        if number % 4 == 1:
            argv = (sys.executable, "-m", "sandbox", "run", "--no-cwd", "--image", IMAGE, "--", "true")
            whole.append(timed(lambda argv=argv: quietly("env", f"PYTHONPATH={ROOT}", *argv)))
    name, base = "`docker run --rm IMAGE true`", p50(docker_run)
    return [
        Row(what="nothing → first result", ours=p50(first), p95=p95(first), baseline=name, base=base, limit=1.0),
        Row(what="nothing → gone, one command in it", ours=p50(gone), p95=p95(gone), baseline=name, base=base),
        Row(what="`python -m sandbox run -- true`, the whole process", ours=p50(whole), baseline=name, base=base),
    ]
