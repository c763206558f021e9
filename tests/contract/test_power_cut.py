"""The power fails in the middle of a write or a run: what was only in memory is gone, and nothing that was said is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def told(folder: Path, story: str, every: int) -> dict[str, object]:
    """One of the stories of `power_cut.py`, with mounts of its own."""
    able = subprocess.run(["unshare", "-m", "sh", "-c", "test -b /dev/loop0"], check=False, capture_output=True)
    if os.geteuid() != 0 or able.returncode or not shutil.which("mkfs.ext4"):
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "tests.support.power_cut", story, folder, str(every)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("every", [18, pytest.param(1, marks=pytest.mark.slow)])
def test_a_power_cut_leaves_half_a_write(tmp_path: Path, every: int) -> None:
    """At steps and events of `apply` and `undo`: old or new after the next start, on record as that, and the way back works."""
    for cuts, finished in told(tmp_path, "writes", every).values():
        assert 0 < finished < cuts


@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_a_power_cut_costs_an_answer(tmp_path: Path, every: int) -> None:
    """After any event: what was answered is not asked for again, what was written not written twice, the end is the same."""
    found = told(tmp_path, "runs", every)
    assert int(str(found["resumed"])) > 30 / every
