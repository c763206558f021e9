"""SIGKILL of massgen at random moments: what is left after the next start, again and again.

    python -m tests.support.chaos --count 200 --seed 7          (make chaos)
    python -m tests.support.chaos --count 200 --seed 7 --from 120     go on where it stopped, or look at one again

Each kill is a function of the seed and its number: which act, at which event or second of it, and how the next start begins. Only
the process itself is killed, never its children: those have to notice. The engine is shared with others, so everything that
is looked for carries the owner's pid and start time, or lies in folders of our own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from massgen.coordination import record as records
from sandbox import owner
from sandbox.spec import AGENT_UID
from tests.docker.engine_view import client
from tests.support.boxes import processes
from tests.support.user import BOUND, User, agent, say, snapshot_of

KINDS = ("copy", "overlay", "direct", "apply", "undo", "exec")
"""Runs with either kind of draft and in mode `direct`, later writes, and `python -m sandbox run`."""
EVENTS = 56
SECONDS = 1.5
PATIENCE_S = 120.0
PROJECT = {"code.txt": "old\n", "gone.txt": "gone\n", "d/one.txt": "1\n", "run.sh": "#!/bin/sh\n", "big.bin": "0" * 300_000}
CHANGE = (
    "echo new > code.txt; rm gone.txt; mkdir -p e/f; echo 2 > e/f/two.txt; chmod 755 run.sh; tr 0 1 < big.bin > b; mv b big.bin;"
    " for n in 1 2 3 4 5 6 7 8 9; do echo $n > d/$n.txt; done"
)


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One of them, and what was found afterwards."""

    number: int
    kind: str
    moment: str
    """How far it was: `before`, the last event of a run, or the seconds of another command."""
    survived: bool
    """It ended before it was killed."""
    changed: bool
    """The project holds the change."""
    wrong: tuple[str, ...]
    """What should not be so; empty: all is well."""
    seconds: float


class Chaos:
    """A user with a project, and what was learned of how long things take."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.user = User(folder / "home")
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.cache = folder / "cache"
        self.state = self.user.home / ".local/state/massgen"
        self.user.env |= {"TMPDIR": str(self.temporary), "XDG_CACHE_HOME": str(self.cache)}
        self.project = self.user.cwd / "project"
        self.mark = f"MARK{os.urandom(6).hex()}"
        self.events = dict.fromkeys(KINDS, EVENTS)
        self.seconds = dict.fromkeys(KINDS, SECONDS)
        self._scripts()
        self._project("copy")
        self.before = snapshot_of(self.project)
        subprocess.run(["sh", "-c", CHANGE], cwd=self.project, check=True)
        self.after = snapshot_of(self.project)

    def _scripts(self) -> None:
        command = f"{CHANGE}; sleep 0.2; : {self.mark}"
        vote = [say(vote="agent1")] * 5
        final = {"when": {"phase": "final"}, "calls": [{"name": "shell", "args": {"command": f"{command}; :"}}]}
        work = say(shell=command)
        self.user.write("first.json", [work, say(answer="done"), *vote, final, say(final="done")])
        self.user.write("second.json", [say(shell=f"ls -R; sleep 0.1; : {self.mark}"), *vote])
        self.user.write("quick.json", [say(answer="nothing to do"), say(vote="$own"), say(final="nothing")])
        team = [agent("first", "first.json"), agent("second", "second.json")]
        paths = {"context_paths": [{"path": "project", "permission": "write"}], "verify": "test -s code.txt"}
        self.user.write("team.json", {"agents": team, "orchestrator": paths})
        self.user.write("one.json", {"agents": [agent("one", "quick.json")], "orchestrator": {**paths, "verify": ""}})

    def _project(self, kind: str) -> None:
        """As it was; root's own is copied for agents, somebody else's is laid under an overlay."""
        shutil.rmtree(self.project, ignore_errors=True)
        for name, text in PROJECT.items():
            self.user.write(f"project/{name}", text)
        self._own(kind)

    def _own(self, kind: str) -> None:
        if os.getuid() == 0 and kind != "copy":
            for place in (self.project, *self.project.rglob("*")):
                os.chown(place, AGENT_UID, AGENT_UID)

    def one(self, number: int) -> Kill:
        """Prepare, begin, kill, begin again, look."""
        began = time.monotonic()
        dice = Random(f"{self.seed}:{number}")
        kind = KINDS[number % len(KINDS)]
        self._project(kind)
        self._prepare(kind)
        if dice.random() < 0.1:
            shutil.rmtree(self.cache, ignore_errors=True)  # its first start on a machine proves things
        victim = self._start(kind)
        who = f"{victim.pid}:{owner._started(victim.pid)}:"
        moment, survived = self._kill(victim, kind, dice)
        wrong = [f"it ended with {victim.returncode}"] if survived and victim.returncode else []
        wrong += self._next_start(dice)
        wrong += self._left(who)
        now = snapshot_of(self.project)
        if now not in (self.before, self.after):
            wrong.append(f"the project is neither old nor new: {_difference(now, self.before)}; {_difference(now, self.after)}")
        wrong += self._undone(kind, changed=now == self.after)
        return Kill(
            number=number,
            kind=kind,
            moment=moment,
            survived=survived,
            changed=now == self.after,
            wrong=tuple(wrong),
            seconds=time.monotonic() - began,
        )

    def _prepare(self, kind: str) -> None:
        """What a later write needs: a run with a result, and for an undo its write, made once and then copied."""
        if kind not in ("apply", "undo"):
            return
        kept = {place: self.user.home / f"kept-{kind}-{place.name}" for place in (self.state, self.project)}
        if not kept[self.state].exists():
            done = self.user.massgen("run", "go", "--config", "team.json", "--write-mode", "review", "--no-display", "--no-logs")
            assert done.returncode == 0, done.stderr
            began = time.monotonic()
            if kind == "undo":
                done = self.user.massgen("apply", "--yes")
                assert done.returncode == 0, done.stderr
                self.seconds["apply"] = self.seconds["undo"] = time.monotonic() - began
            for place, copy in kept.items():
                shutil.copytree(place, copy, symlinks=True)
        for place, copy in kept.items():
            shutil.rmtree(place)
            shutil.copytree(copy, place, symlinks=True)
        self._own(kind)

    def _start(self, kind: str) -> subprocess.Popen[str]:
        match kind:
            case "exec":
                command = ["-m", "sandbox", "run", "--keep-changes", "../changes", "--", "sh", "-c", f"{CHANGE}; : {self.mark}"]
                argv, cwd = [*BOUND, sys.executable, *command], self.project
            case "apply":
                argv, cwd = self.user.argv("apply", "--yes"), self.user.cwd
            case "undo":
                argv, cwd = self.user.argv("undo"), self.user.cwd
            case _:
                mode = "direct" if kind == "direct" else "apply"
                words = ("run", "go", "--config", "team.json", "--write-mode", mode, "--json", "--no-logs")
                argv, cwd = self.user.argv(*words), self.user.cwd
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=self.user.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def _kill(self, victim: subprocess.Popen[str], kind: str, dice: Random) -> tuple[str, bool]:
        """At an event of a run, or a moment after it; at a second of anything else. How far it was, and whether it was over."""
        assert victim.stdout is not None
        said: list[str] = []
        reached, wanted = threading.Event(), 0
        if kind in ("copy", "overlay", "direct"):
            wanted = dice.randrange(self.events[kind] + 1)
        delay = dice.uniform(0, 0.15) if wanted else dice.uniform(0, self.seconds[kind])

        def listen(lines: Callable[[], str]) -> None:
            while line := lines():
                said.append(json.loads(line)["type"] if line.startswith("{") else "")
                if len(said) == wanted:
                    reached.set()
            reached.set()

        began = time.monotonic()
        listener = threading.Thread(target=listen, args=(victim.stdout.readline,))
        listener.start()
        if wanted:
            reached.wait(PATIENCE_S)
        try:
            victim.wait(delay)
        except subprocess.TimeoutExpired:
            victim.send_signal(signal.SIGKILL)
        survived = victim.wait(10) != -signal.SIGKILL
        if survived:
            self.events[kind] = len(said) or EVENTS
            self.seconds[kind] = time.monotonic() - began
        listener.join(10)
        victim.stdout.close()
        where = (said[-1] if said else "before") if kind in ("copy", "overlay", "direct") else f"{delay:.2f} s"
        return "the end" if survived else where, survived

    def _next_start(self, dice: Random) -> list[str]:
        if dice.random() < 0.75:
            done = self.user.massgen("gc", "--json", timeout_s=PATIENCE_S)
        else:
            words = ("run", "look", "--config", "one.json", "--write-mode", "review", "--no-display", "--no-logs")
            done = self.user.massgen(*words, timeout_s=PATIENCE_S)
        return [] if done.returncode == 0 else [f"the next start ended with {done.returncode}: {done.stderr[-500:]}"]

    def _left(self, who: str) -> list[str]:
        """What carries the victim's name, or lies in our own folders and should not."""
        with client() as engine:
            labelled = {"label": owner.LABEL}
            found = [("container", c["Id"], c["Labels"]) for c in engine.containers(all=True, filters=labelled)]
            found += [("volume", v["Name"], v["Labels"] or {}) for v in engine.volumes(filters=labelled).get("Volumes") or []]
        left = [f"{what} {name}" for what, name, labels in found if labels.get(owner.LABEL, "").startswith(who)]
        left += [f"process {pid}" for pid in processes(self.mark)]
        left += [f"file {place}" for place in self._files(who)]
        return left

    def _files(self, who: str) -> list[Path]:
        found = list(self.temporary.iterdir())
        for place in Path("/var/tmp").glob("massgen-*"):
            try:
                mark = (place / "owner").read_text()
            except OSError:
                mark = ""
            if mark.startswith(who) or who.replace(":", "_") in place.name:
                found.append(place)
        hidden = [*self.cache.rglob(".*"), *self.state.rglob(".*")]
        runs = [*self.state.glob("runs/*/owner"), *self.state.glob("runs/*/peers"), *self.state.glob("runs/massgen-*")]
        return found + hidden + runs + list(self.state.glob("leases/*")) + list(self.project.rglob(".massgen-lease*"))

    def _undone(self, kind: str, *, changed: bool) -> list[str]:
        """The record says what the project holds, and the way back works."""
        if kind == "exec":
            return ["the command changed the project"] if changed else []
        folders = sorted(self.state.glob("runs/*/run.json"), key=lambda place: records.load(place.parent).started)
        written = [records.load(place.parent) for place in folders]
        last = next((record for record in reversed(written) if record.prompt == "go"), None)
        if (last is not None and last.written is not None) is not changed:
            return [f"run.json says {last and last.written}, the project is {'new' if changed else 'old'}"]
        if not changed or last is None:
            self._forget()
            return []
        done = self.user.massgen("undo", last.run_id)
        back = snapshot_of(self.project) == self.before
        self._forget()
        return [] if back else [f"undo did not take it back ({done.returncode}): {done.stderr[-500:]}"]

    def _forget(self) -> None:
        """Old runs, so that looking for the last one stays cheap."""
        shutil.rmtree(self.state / "runs", ignore_errors=True)


def _difference(now: dict[str, tuple[str, int, bytes]], then: dict[str, tuple[str, int, bytes]]) -> str:
    return ", ".join(sorted(path for path in now.keys() | then.keys() if now.get(path) != then.get(path))[:6])


def main() -> int:
    """Kill so often, and say what was found; 1 when anything was."""
    parser = argparse.ArgumentParser(prog="chaos", description="SIGKILL massgen at random moments.")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--from", dest="first", type=int, default=1)
    given = parser.parse_args()
    began, bad = time.monotonic(), 0
    moments: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/var/tmp") as folder:
        chaos = Chaos(Path(folder), given.seed)
        for number in range(given.first, given.count + 1):
            kill = chaos.one(number)
            bad += bool(kill.wrong)
            moments[f"{kill.kind} {kill.moment}" if kill.kind in KINDS[:3] else kill.kind] += 1
            ends["ended before it was killed" if kill.survived else "new" if kill.changed else "old"] += 1
            version = "new" if kill.changed else "old"
            verdict = "WRONG " + "; ".join(kill.wrong) if kill.wrong else "ok"
            line = f"{number:4}/{given.count}  {kill.kind:8} {kill.moment:16} {version}  {kill.seconds:5.1f} s  {verdict}\n"
            sys.stdout.write(line)
            sys.stdout.flush()
    killed = given.count - given.first + 1
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"\nwhere they were: {', '.join(f'{moment} {count}' for moment, count in sorted(moments.items()))}\n"
        f"the project afterwards: {', '.join(f'{end} {count}' for end, count in sorted(ends.items()))}\n"
        f"{killed} kills with seed {given.seed} in {seconds:.0f} s: {bad} left or broke something\n"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
