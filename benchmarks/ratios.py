"""What every benchmark shares: a row against its limit, a clock, the machine it ran on, the table.

A promise is a ratio of two medians that were taken in turn in one run, so that a slow machine is slow for both. Absolute figures
are promised only where the issue is a bound (a rate, a growth of memory).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
RECORD = HERE / "RESULTS.md"
IMAGE = os.environ.get("MASSGEN_IMAGE") or "massgen-agent:latest"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of ours: against a baseline and a limit, against a limit alone, or for information."""

    what: str
    ours: float | None
    """None: not measured; `note` says why."""
    unit: str = "ms"
    baseline: str = ""
    base: float = 0.0
    """In the same unit; 0 without a baseline."""
    limit: float | None = None
    """Of the ratio, or of `ours` where there is no baseline. None: for information."""
    sense: Literal["at most", "at least"] = "at most"
    """`at least`, with a baseline: the baseline must be that many times slower."""
    p95: float | None = None
    note: str = ""

    @property
    def figure(self) -> float | None:
        """What the limit is about."""
        if self.ours is None or not self.base:
            return self.ours
        return self.base / self.ours if self.sense == "at least" else self.ours / self.base

    @property
    def verdict(self) -> Literal["kept", "MISSED", "info", "not measured"]:
        """Whether the promise holds."""
        if self.figure is None:
            return "not measured"
        if self.limit is None:
            return "info"
        return "kept" if (self.figure >= self.limit if self.sense == "at least" else self.figure <= self.limit) else "MISSED"


def timed(work: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    work()
    return since(began)


def since(began: float) -> float:
    """Milliseconds since a `time.perf_counter()`."""
    return (time.perf_counter() - began) * 1000


def as_installed() -> None:
    """For the rest of this process: what is installed has its bytecode, without which each start of ours compiles it again."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def quietly(*argv: str) -> None:
    """Run a program of the host, its output captured."""
    subprocess.run(argv, check=True, capture_output=True)


def p50(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """Nineteen of twenty are at most this."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.95))]


def machine(engine: str = "") -> dict[str, str]:
    """What the figures depend on; nothing that names the machine."""
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in facts if line.startswith("model name")), platform.machine())
        memory = Path("/proc/meminfo").read_text(encoding="ascii").split()[1]
    except OSError:
        model, memory = platform.machine(), "0"
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory) / 1024**2:.0f} GiB",
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        **({"engine": engine} if engine else {}),
    }


def table(rows: Sequence[Row]) -> str:
    """For people and for RESULTS.md."""
    lines = ["| | ours | p95 | baseline | ratio | promised | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        against = f"{row.baseline}: {_figure(row.base)} {row.unit}" if row.base else row.baseline
        ratio = f"{_figure(row.figure)} ×" if row.base and row.figure is not None else ""
        times = " ×" if row.base else f" {row.unit}"
        promised = "" if row.limit is None else f"{'≥' if row.sense == 'at least' else '≤'} {row.limit:g}{times}"
        ours = "–" if row.ours is None else f"{_figure(row.ours)} {row.unit}"
        high = "" if row.p95 is None else _figure(row.p95)
        note = f" ({row.note})" if row.note else ""
        lines.append(f"| {row.what}{note} | {ours} | {high} | {against} | {ratio} | {promised} | {row.verdict} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return (
        f"{value:.3f}" if 0 < value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
    )


def keep(name: str, sections: dict[str, list[Row]], facts: dict[str, str]) -> None:
    """Write the JSON; sections that were not measured this time stay as they were."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["sections"]
    except (OSError, ValueError, KeyError):
        before = {}
    now = {key: [{**vars(row), "figure": row.figure, "verdict": row.verdict} for row in rows] for key, rows in sections.items()}
    path.write_text(json.dumps({"machine": facts, "sections": {**before, **now}}, indent=1) + "\n", encoding="utf-8")


def report(name: str, sections: dict[str, list[Row]], facts: dict[str, str]) -> int:
    """Print, keep; the exit code: 1 when a promise is missed."""
    rows = [row for section in sections.values() for row in section]
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(table(rows))
    keep(name, sections, facts)
    missed = [row.what for row in rows if row.verdict == "MISSED"]
    print(
        f"{len(missed)} of {sum(row.limit is not None for row in rows)} promises missed"
        + (f": {'; '.join(missed)}" if missed else "")
    )
    sys.stdout.flush()
    return 1 if missed else 0


def recorded(path: Path) -> dict[str, list[Row]]:
    """The sections of a benchmark that were measured last. Raises OSError when there are none."""
    kept = json.loads(path.read_text(encoding="utf-8"))["sections"]
    fields = set(Row.__dataclass_fields__)
    return {key: [Row(**{k: v for k, v in row.items() if k in fields}) for row in rows] for key, rows in kept.items()}
