"""What the host pays in memory: for a flood of output, and for each sandbox that does nothing."""

from __future__ import annotations

import contextlib
import gc
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.ratios import IMAGE, Row
from sandbox import DockerEngine, Limits, Sandbox, SandboxSpec
from sandbox.spec import GIB, MIB

IDLE = 8


async def measure(engine: DockerEngine, *, quick: bool) -> list[Row]:
    """All rows about memory."""
    size = GIB if quick else 10 * GIB
    spec = SandboxSpec(image=IMAGE, limits=Limits(memory_bytes=128 * MIB))
    async with Sandbox.open(spec, engine=engine) as box:
        assert (await box.run(["head", "-c", str(8 * MIB), "/dev/zero"])).ok
        before = _status("VmRSS")
        _forget_peak()
        outcome = await box.run(["head", "-c", str(size), "/dev/zero"], timeout_s=600)
        assert outcome.ok, outcome
        growth = _status("VmHWM") - before
    gc.collect()
    resident, everybody = _status("VmRSS"), _everybody()
    async with AsyncExitStack() as stack:
        for _ in range(IDLE):
            await stack.enter_async_context(Sandbox.open(spec, engine=engine))
        mine = (_status("VmRSS") - resident) / IDLE
        whole = (_everybody() - everybody) / IDLE
    return [
        Row(what=f"host's growth during {size // GIB} GiB of output", ours=growth / MIB, unit="MiB", limit=64),
        Row(what="an idle sandbox, in the host process", ours=mine / MIB, unit="MiB"),
        Row(what="an idle sandbox, engine and guest included", ours=whole / MIB, unit="MiB", note="the share of all processes"),
    ]


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(name: str, place: Path = Path("/proc/self/status")) -> int:
    """Bytes. Raises LookupError: there is no such line, OSError."""
    for line in place.read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def _everybody() -> int:
    """Bytes of all processes that may be looked at. What the machine has left is no measure: its caches come and go."""
    total = 0
    for place in Path("/proc").glob("[0-9]*/smaps_rollup"):
        with contextlib.suppress(OSError, LookupError):  # it has ended, or is the kernel's own
            total += _status("Pss", place)
    return total
