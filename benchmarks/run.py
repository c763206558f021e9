"""A whole run of three scripted agents against the container starts in it, and how long `massgen --help` takes.

python benchmarks/run.py [--quick]      a table, and JSON in benchmarks/results/run.json; exit 1 when a promise is missed
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # run by its path: `sandbox.py` beside this file would hide the package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.ratios import Row, as_installed, machine, p50, quietly, report, timed

MASSGEN = Path(sys.executable).with_name("massgen")

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


def scripted_run(rounds: int) -> Row:
    """A whole run of three agents (answers, votes, final turn, write) against the container starts that it contains."""
    from massgen.events.replay import read
    from massgen.events.types import SandboxStarted

    walls: list[float] = []
    starts: list[float] = []
    with tempfile.TemporaryDirectory(prefix="massgen-bench-") as name:
        base = Path(name).resolve()
        (base / "script.yaml").write_text(SCRIPT, encoding="utf-8")
        (base / "team.yaml").write_text(TEAM, encoding="utf-8")
        env = {**os.environ, "XDG_STATE_HOME": str(base / "state")}
        for number in range(rounds):
            project = base / f"project{number}"
            project.mkdir()
            (project / "greet.py").write_text("def greet():\n    return 'helo'\n", encoding="utf-8")
            argv = [str(MASSGEN), "run", "Fix the greeting", "--config", str(base / "team.yaml"), "--write", ".", "--apply"]
            walls.append(
                timed(lambda argv=argv, cwd=project: subprocess.run(argv, cwd=cwd, env=env, check=True, capture_output=True))
            )
            assert "hello" in (project / "greet.py").read_text(encoding="utf-8")
        for log in sorted((base / "state" / "massgen" / "runs").glob("*/events.jsonl")):
            events = [envelope.event for envelope in read(log)]
            starts.append(sum(event.start_s for event in events if isinstance(event, SandboxStarted)) * 1000)
    return Row(
        what="scripted run of three agents, apply included",
        ours=p50(walls),
        baseline="the container starts in it",
        base=p50(starts),
        limit=3,
    )


def help_text(rounds: int) -> Row:
    """`massgen --help`, at most 300 ms."""
    return Row(
        what="`massgen --help`", ours=p50([timed(lambda: quietly(str(MASSGEN), "--help")) for _ in range(rounds)]), limit=300
    )


def main() -> int:
    """Measure, print, write JSON; returns the exit code."""
    quick = "--quick" in sys.argv
    as_installed()
    return report("run", {"run": [scripted_run(2 if quick else 5), help_text(5)]}, machine())


if __name__ == "__main__":
    sys.exit(main())
