"""Temporary files of killed processes: gone at the next start, whenever the kill came; those of the living stay."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from massgen.coordination import record as records
from massgen.coordination import tidy
from massgen.errors import ConfigError
from sandbox import overlay, owner, scratch

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from sandbox import scratch
place = Path(sys.argv[1])
with scratch.folder("test", home=place) as folder, scratch.replacing(place / "file") as staged:
    (folder / "below").mkdir()
    (folder / "below" / "file").write_text("x")
    staged.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_stays(tmp_path: Path) -> None:
    """Its folder and its half-written file go; the same of a living process, links, and other names do not."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    dead = f"massgen-test-1_1_{'0' * 8}-0000-0000-0000-{'0' * 12}_1-"
    (tmp_path / f"{dead}00000000").symlink_to(tmp_path / "outside")
    (tmp_path / "massgen-view-0123").mkdir()
    with scratch.folder("test", home=tmp_path) as mine, scratch.replacing(tmp_path / "file") as staged:
        staged.write_text("whole")
        scratch.bury(tmp_path)
        assert mine.is_dir()
        assert staged.read_text() == "whole"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "massgen-view-0123", "outside"]
    assert (tmp_path / "outside" / "file").read_text() == "mine"


def test_a_replacement_that_fails_leaves_half_a_file(tmp_path: Path) -> None:
    """The old content stays, and nothing beside it."""
    (tmp_path / "file").write_text("old")

    def fail() -> None:
        with scratch.replacing(tmp_path / "file") as staged:
            staged.write_text("half")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_layers_whose_removal_was_killed_at_its_very_end_stay_for_ever() -> None:
    """Their mark goes last; a folder without one is nobody's, and the next start removes it."""
    folder = overlay.HOME / (overlay.PREFIX + secrets.token_hex(8))
    folder.mkdir()
    for found, _ in overlay.dead():
        if found == folder:
            assert overlay.discard(found)
    assert not folder.exists()


def test_a_run_that_was_killed_before_it_had_a_record_stays_for_ever(tmp_path: Path) -> None:
    """Its folder has its owner's mark from the first moment, so the next start removes it; a living one's stays."""
    mine = tidy.new_run(tmp_path, run_id="mine")
    dead = records.new_run(tmp_path, run_id="dead", holding={tidy.OWNER: "1:1:another:"})
    with pytest.raises(ConfigError, match="exists already"):
        tidy.new_run(tmp_path, run_id="mine")
    assert (mine / tidy.OWNER).read_text() == owner.me()
    assert tidy.sweep(tmp_path) == ("dead",)
    assert not dead.exists()
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["mine"]
    assert mine.stat().st_mode & 0o777 == 0o700
