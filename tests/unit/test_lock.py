"""One writer at a time: in a folder, above it and below it, across processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from massgen.coordination.lock import one_writer
from massgen.errors import ApplyConflict

HOLD = """
import sys, anyio
from pathlib import Path
from massgen.coordination.lock import one_writer
async def main():
    async with one_writer(Path(sys.argv[1]), [Path(sys.argv[2])]):
        print("held", flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


def held(folder: Path, path: str) -> subprocess.Popen[str]:
    """A process that writes in a path until it is killed."""
    return subprocess.Popen([sys.executable, "-c", HOLD, folder, path], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("theirs", "waits"), [("/p", True), ("/p/src", True), ("/", True), ("/q", False), ("/p2", False)])
async def test_overlapping_writes_wait_and_others_do_not(tmp_path: Path, theirs: str, *, waits: bool) -> None:
    """Another process writes in one path; ours below, above or at it waits, beside it goes ahead. Killed, it holds nothing."""
    other = held(tmp_path, theirs)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "held\n"
        if waits:
            with pytest.raises(ApplyConflict, match="another run"):
                async with one_writer(tmp_path, [Path("/p/src") if theirs == "/p" else Path("/p")], wait_s=0.2):
                    pass
        else:
            async with one_writer(tmp_path, [Path("/p")], wait_s=0.2):
                pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    async with one_writer(tmp_path, [Path("/p")], wait_s=5):
        pass


async def test_writers_of_several_paths_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    """Whatever the order in which the paths are named."""
    turns: list[str] = []

    async def write(name: str, *roots: str) -> None:
        for _ in range(10):
            async with one_writer(tmp_path, [Path(root) for root in roots], wait_s=20):
                turns.append(name)
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, "a", "/x", "/y")
            tasks.start_soon(write, "b", "/y", "/x")
            tasks.start_soon(write, "c", "/x/deep", "/y")
    assert sorted(turns) == ["a"] * 10 + ["b"] * 10 + ["c"] * 10
