"""The same command through other sandboxes for agents, when somebody has them installed.

Run by `benchmarks/sandbox.py --peers PYTHON`, and by that Python in turn: as a program this file measures, and prints JSON.
SWE-ReX wants an image with its server in it (MASSGEN_PEERS_IMAGE); inspect_ai wants `docker compose`.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time

ROUNDS = 60
IMAGE = os.environ.get("MASSGEN_PEERS_IMAGE") or "massgen-agent:latest"


def measure(python: str, *, quick: bool) -> list[object]:
    """Rows of what is installed there; the rest is said to be not measured."""
    from benchmarks.ratios import Row

    found: dict[str, float | str] = {}
    if python:
        rounds = str(10 if quick else ROUNDS)
        done = subprocess.run([python, __file__, rounds], capture_output=True, text=True, timeout=600, check=False)
        lines = done.stdout.strip().splitlines()
        found = json.loads(lines[-1]) if done.returncode == 0 and lines else {"peers": done.stderr[-300:]}
    rows: list[object] = []
    for name in ("SWE-ReX execute", "inspect_ai exec"):
        value = found.get(name, found.get("peers", "name an environment with --peers"))
        if isinstance(value, str):
            rows.append(Row(what=f"{name}, command `true`", ours=None, note=value.replace("\n", " ").replace("|", "/")))
        else:
            rows.append(Row(what=f"{name}, command `true`", ours=value))
    return rows


async def _swerex(rounds: int) -> float:
    from swerex.deployment.docker import DockerDeployment
    from swerex.runtime.abstract import Command

    deployment = DockerDeployment(image=IMAGE, pull="never", remove_container=True)
    await deployment.start()
    try:
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            await deployment.runtime.execute(Command(command=["true"]))
            times.append((time.perf_counter() - began) * 1000)
        return statistics.median(times)
    finally:
        await deployment.stop()


async def _inspect(rounds: int) -> float:
    from inspect_ai.util._sandbox.docker.docker import DockerSandboxEnvironment as Environment

    await Environment.task_init("bench", None)
    boxes = await Environment.sample_init("bench", None, {})
    try:
        box = next(iter(boxes.values()))
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            await box.exec(["true"])
            times.append((time.perf_counter() - began) * 1000)
        return statistics.median(times)
    finally:
        await Environment.sample_cleanup("bench", None, boxes, interrupted=False)
        await Environment.task_cleanup("bench", None, cleanup=True)


def main(rounds: int) -> None:
    """Whatever can be imported here, as JSON on the last line of stdout."""
    found: dict[str, float | str] = {}
    for name, work in (("SWE-ReX execute", _swerex), ("inspect_ai exec", _inspect)):
        try:
            found[name] = asyncio.run(work(rounds))
        except BaseException as error:  # noqa: BLE001 - a peer that does not start is a row, not our failure
            found[name] = f"{type(error).__name__}: {error}"[:200]
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
