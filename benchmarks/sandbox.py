"""How fast the sandbox is, side by side with what a user would use instead.

    python benchmarks/sandbox.py [--quick] [--only SECTION]… [--peers PYTHON] [--record]

Sections: commands, starts, snapshots, streams, memory. Prints a table, writes benchmarks/results/sandbox.json, exits 1 when a
promise is missed. `--peers` names the Python of an environment in which SWE-ReX or inspect_ai is installed. `--record` renders
the last figures of every section into benchmarks/RESULTS.md and measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run by its path: this folder would hide the package of the same name as this file
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

SECTIONS = ("commands", "starts", "snapshots", "streams", "memory")


async def measure(*, only: list[str], quick: bool, peers: str) -> int:
    """The sections asked for, one after the other."""
    from benchmarks import commands, memory, ratios, snapshots, starts, streams
    from benchmarks import peers as others
    from sandbox import DockerEngine

    ratios.as_installed()
    engine = await DockerEngine.connect()
    about = await engine.facts()
    sections: dict[str, list[ratios.Row]] = {}
    if "commands" in only:
        sections["commands"] = await commands.measure(engine, quick=quick)
    if "starts" in only:
        sections["starts"] = await starts.measure(engine, quick=quick)
    if "snapshots" in only:
        sections["snapshots"] = await snapshots.measure(engine, quick=quick)
    if "streams" in only:
        sections["streams"] = await streams.measure(engine, quick=quick)
    if "memory" in only:
        sections["memory"] = await memory.measure(engine, quick=quick)
    if peers or len(only) == len(SECTIONS):
        sections["peers"] = others.measure(peers, quick=quick)
    facts = ratios.machine(f"{about.name} {about.version}, cgroups {about.cgroups}")
    return ratios.report("sandbox", sections, facts)


def main() -> int:
    """Measure, print, write; returns the exit code."""
    import anyio

    from benchmarks import record

    parser = argparse.ArgumentParser(description="Ratios of the sandbox, measured side by side.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller trees and streams")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="measure this section; repeatable")
    parser.add_argument("--peers", default="", metavar="PYTHON", help="the Python of an environment with swe-rex or inspect-ai")
    parser.add_argument("--record", action="store_true", help="write benchmarks/RESULTS.md from what was measured last")
    given = parser.parse_args()
    if given.record:
        record.write()
        return 0
    return anyio.run(lambda: measure(only=given.only or list(SECTIONS), quick=given.quick, peers=given.peers))


if __name__ == "__main__":
    sys.exit(main())
