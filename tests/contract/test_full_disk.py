"""A disk that fills up in the middle of a run: said as that, nothing lost, and the run goes on once there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

STORY = """
import contextlib, shutil, subprocess, sys
from pathlib import Path
import anyio
from massgen import app
from massgen.config.model import Config, ContextPath
from massgen.errors import SandboxFailed
from massgen.events.replay import read
from massgen.events.types import AnswerGiven, LookStarted
from sandbox.testing import FakeEngine
from tests.contract.test_resume_fake import FIX, agent
from tests.contract.test_app_fake import END

folder = Path(sys.argv[1])
state, project, ballast = folder / "state", folder / "project", folder / "state" / "ballast"
state.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "none", state], check=True)
project.mkdir()
(project / "code.txt").write_text("broken\\n")

def fill(envelope):
    if isinstance(envelope.event, %s) and not ballast.exists():
        ballast.mkdir()
        with contextlib.suppress(OSError):
            for number in range(10**6):
                (ballast / str(number)).write_bytes(b"x" * %d)

async def main():
    engine = FakeEngine(folder / "boxes")
    fixer = agent(folder, "alice", [FIX, END])
    config = Config(agents=(fixer,), context_paths=(ContextPath(path=project, permission="write"),), write="apply")
    try:
        await app.run(config, "fix it", engine=engine, readers=[fill], state_dir=state)
    except SandboxFailed as error:
        print("said:", error)
    assert (project / "code.txt").read_text() == "broken\\n"
    assert engine.running == 0
    shutil.rmtree(ballast)
    done = await app.resume(config, "", engine=engine, state_dir=state)
    answers = [e.event.answer for e in read(done.run_dir / "events.jsonl") if isinstance(e.event, AnswerGiven)]
    print("then:", done.outcome, *answers, (project / "code.txt").read_text().strip())

anyio.run(main)
"""


@pytest.mark.parametrize("file_bytes", [8192, 0], ids=["no block", "no inode"])
@pytest.mark.parametrize("when", ["LookStarted", "AnswerGiven"])
def test_a_full_disk_costs_no_answer(tmp_path: Path, when: str, file_bytes: int) -> None:
    """Exit 125 with what to type; what was answered before is not asked for again; the project is whole throughout."""
    private = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if subprocess.run([*private, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    done = subprocess.run(
        [*private, sys.executable, "-c", STORY % (when, file_bytes), tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "said: the disk is full" in done.stdout, done.stdout
    assert "then: applied agent1.1 fixed" in done.stdout, done.stdout
