"""The first promises on speed, as ratios against a baseline measured in the same run, in turn.

    python benchmarks/first.py [--quick]      a table, and JSON in benchmarks/results/first.json; exit 1 when a limit is missed

Absolute figures depend on the machine; the ratios are what is promised.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio

from massgen.events.replay import read
from massgen.events.types import SandboxStarted
from sandbox import DockerEngine, Sandbox, SandboxSpec

IMAGE = "massgen-agent:latest"
MASSGEN = Path(sys.executable).with_name("massgen")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One promise: ours against a baseline, and the ratio that it must keep."""

    what: str
    ours_ms: float
    baseline: str
    baseline_ms: float
    limit: float
    at_least: bool = False
    """True: the baseline must be that many times slower; False: ours must be at most that many times the baseline."""

    @property
    def ratio(self) -> float:
        """Ours over the baseline, or the other way round for `at_least`."""
        return self.baseline_ms / self.ours_ms if self.at_least else self.ours_ms / self.baseline_ms

    @property
    def kept(self) -> bool:
        """Whether the promise holds."""
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


def timed(work: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def quietly(*argv: str) -> None:
    """Run a program of the host, its output captured."""
    subprocess.run(argv, check=True, capture_output=True)


async def commands(engine: DockerEngine, rounds: int) -> list[Row]:
    """`true` through the sandbox, on the host, and by `docker exec`, in turn."""
    ours: list[float] = []
    host: list[float] = []
    docker_exec: list[float] = []
    name = f"massgen-bench-{os.getpid()}"
    quietly("docker", "run", "-d", "--rm", "--network", "none", "--name", name, "--entrypoint", "sleep", IMAGE, "600")
    try:
        async with Sandbox.open(SandboxSpec(image=IMAGE), engine=engine) as box:
            await box.run(["true"])
            for number in range(rounds):
                began = time.perf_counter()
                outcome = await box.run(["true"])
                ours.append((time.perf_counter() - began) * 1000)
                assert outcome.ok, outcome
                host.append(timed(lambda: quietly("true")))
                if number % 10 == 0:
                    docker_exec.append(timed(lambda: quietly("docker", "exec", name, "true")))
    finally:
        quietly("docker", "rm", "-f", name)
    p50 = statistics.median(ours)
    return [
        Row(
            what="command, p50",
            ours_ms=p50,
            baseline="subprocess.run on the host",
            baseline_ms=statistics.median(host),
            limit=2.5,
        ),
        Row(
            what="command, p50",
            ours_ms=p50,
            baseline="docker exec",
            baseline_ms=statistics.median(docker_exec),
            limit=20,
            at_least=True,
        ),
    ]


async def cold_starts(engine: DockerEngine, rounds: int) -> list[Row]:
    """Open, run `true`, close, against `docker run --rm … true`."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        async with Sandbox.open(SandboxSpec(image=IMAGE), engine=engine) as box:
            assert (await box.run(["true"])).ok
        ours.append((time.perf_counter() - began) * 1000)
        theirs.append(timed(lambda: quietly("docker", "run", "--rm", "--network", "none", "--entrypoint", "true", IMAGE)))
    return [
        Row(
            what="sandbox from nothing to gone, one command in it",
            ours_ms=statistics.median(ours),
            baseline="docker run --rm IMAGE true",
            baseline_ms=statistics.median(theirs),
            limit=1.5,
        )
    ]


SCRIPT = """\
- when: {phase: coordination, answers: 0}
  text: The greeting is wrong.
  calls: [{name: write_file, args: {path: greet.py, content: "def greet():\\n    return 'hello'\\n"}}]
- when: {phase: coordination, answers: 0}
  calls: [{name: new_answer, args: {content: Fixed the greeting.}}]
- when: {phase: coordination, answers: ">=1"}
  calls: [{name: vote, args: {agent_id: $latest, reason: It works.}}]
- when: {phase: coordination, answers: ">=1"}
  calls: [{name: vote, args: {agent_id: $latest, reason: It works.}}]
- when: {phase: coordination, answers: ">=1"}
  calls: [{name: vote, args: {agent_id: $latest, reason: It works.}}]
- when: {phase: final}
  text: Done.
"""

TEAM = """\
agents:
  - {id: one, backend: {type: scripted, script: script.yaml}}
  - {id: two, backend: {type: scripted, script: script.yaml}}
  - {id: three, backend: {type: scripted, script: script.yaml}}
"""


def scripted_run(rounds: int) -> list[Row]:
    """A whole run of three agents (answers, votes, final turn, write) against the container starts that it contains."""
    walls: list[float] = []
    starts: list[float] = []
    with tempfile.TemporaryDirectory(prefix="massgen-bench-") as name:
        base = Path(name).resolve()
        (base / "script.yaml").write_text(SCRIPT)
        (base / "team.yaml").write_text(TEAM)
        env = {**os.environ, "XDG_STATE_HOME": str(base / "state")}
        for number in range(rounds):
            project = base / f"project{number}"
            project.mkdir()
            (project / "greet.py").write_text("def greet():\n    return 'helo'\n")
            argv = [str(MASSGEN), "run", "Fix the greeting", "--config", str(base / "team.yaml"), "--write", ".", "--apply"]
            walls.append(
                timed(lambda argv=argv, cwd=project: subprocess.run(argv, cwd=cwd, env=env, check=True, capture_output=True))
            )
            assert "hello" in (project / "greet.py").read_text()
        for log in sorted((base / "state" / "massgen" / "runs").glob("*/events.jsonl")):
            events = [envelope.event for envelope in read(log)]
            starts.append(sum(event.start_s for event in events if isinstance(event, SandboxStarted)) * 1000)
    return [
        Row(
            what="scripted run of three agents, apply included",
            ours_ms=statistics.median(walls),
            baseline="the container starts in it",
            baseline_ms=statistics.median(starts),
            limit=3,
        )
    ]


def help_text(rounds: int) -> list[Row]:
    """`massgen --help`, against 300 ms."""
    ours = statistics.median(timed(lambda: quietly(str(MASSGEN), "--help")) for _ in range(rounds))
    return [Row(what="massgen --help", ours_ms=ours, baseline="0.3 s", baseline_ms=300, limit=1)]


async def measure(*, quick: bool) -> list[Row]:
    """All rows."""
    engine = await DockerEngine.connect()
    rows = await commands(engine, 100 if quick else 400)
    rows += await cold_starts(engine, 5 if quick else 15)
    rows += await anyio.to_thread.run_sync(scripted_run, 2 if quick else 5)
    return rows + help_text(5)


def main() -> int:
    """Measure, print, write JSON."""
    rows = anyio.run(lambda: measure(quick="--quick" in sys.argv))
    for row in rows:
        sign = ">=" if row.at_least else "<="
        verdict = "ok  " if row.kept else "MISS"
        print(
            f"{verdict} {row.what}: {row.ours_ms:.2f} ms; {row.baseline}: {row.baseline_ms:.2f} ms; "
            f"ratio {row.ratio:.2f} (promised {sign} {row.limit:g})"
        )
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    result = [{**asdict(row), "ratio": row.ratio, "kept": row.kept} for row in rows]
    (folder / "first.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
