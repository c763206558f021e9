"""Who may go on with a run, and what is to be said before anybody does.

A run can be resumed when its process is gone and its log has no end, or one that blames the machine. What the log is a function
of must be as it was: agents, context paths, and everything of `orchestrator` in the config; a change there is refused, as replay
would give a state that the run never had. Other changes (models, limits, deadlines, budget) are wanted as often as not, so they
are told. So is what the user changed in the project meanwhile: agents see it, and the write is checked against it as always.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from massgen.coordination import record as records
from massgen.coordination import tidy
from massgen.coordination.onewrite import files_of
from massgen.coordination.record import Record
from massgen.coordination.relive import Past, Relived
from massgen.coordination.state import Finish
from massgen.errors import ConfigError
from massgen.events.codec import LogError, decode
from massgen.events.log import FILE
from massgen.events.replay import GOES_ON
from massgen.events.types import Applied, Notice, RunFinished, RunResumed, SandboxEnded
from sandbox import SnapshotError, Store
from sandbox.base import Base

CONFIG = "config.resolved.yaml"
OURS = ".massgen"
"""Where runs leave what people read of them."""
SHOWN = 8
_TAIL_BYTES = 1024 * 1024


def unfinished(folder: Path) -> bool:
    """Whether the log of a run lacks an end that is its own. Reads the last lines only; blocks."""
    return _end(folder / FILE) in ("", *GOES_ON)


def _end(path: Path) -> str:
    """The outcome of the terminal event; empty without one."""
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, 2) - _TAIL_BYTES, 0))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return ""
    for line in reversed(lines):
        if line.endswith(b"\n"):
            try:
                event = decode(line).event
            except LogError:
                return ""
            return event.outcome if isinstance(event, RunFinished) else ""
    return ""


def why_not(folder: Path, record: Record) -> str:
    """Why this run cannot be resumed, and what to do instead; empty: it can. Blocks."""
    run = record.run_id
    if tidy.living(folder):
        return f"run {run} still goes on in another process"
    if not unfinished(folder):
        then = f"; its result is there: massgen diff {run}, massgen apply {run}" if record.snapshot and not record.written else ""
        return f"run {run} has ended ({_end(folder / FILE)}){then}; to ask again, start a new one with `massgen run`"
    if not (folder / CONFIG).is_file():
        return f"run {run} died before it began; start a new one with `massgen run`"
    return ""


def find(state_dir: Path, prefix: str) -> tuple[Path, Record]:
    """The run that a unique prefix names; empty: the last one that can be resumed. Blocks.

    Raises ConfigError: none, several, or one that cannot be resumed, with what to do instead.
    """
    if prefix:
        folder, record = records.find(state_dir, prefix)
        if why := why_not(folder, record):
            raise ConfigError(why)
        return folder, record
    found = [(path.parent, records.load(path.parent)) for path in (state_dir / "runs").glob(f"*/{records.FILE}")]
    able = [(folder, record) for folder, record in found if not why_not(folder, record)]
    if not able:
        raise ConfigError("no run is waiting to be resumed; `massgen runs` lists them, `massgen run` starts a new one")
    return max(able, key=lambda one: one[1].started)


@contextmanager
def taken_over(folder: Path) -> Iterator[Record]:
    """The run is this process's from here on, and marked as running. Blocks. Raises ConfigError: somebody was faster."""
    with tidy.changing_hands(folder) as ours:
        record = records.load(folder)
        if not ours:
            raise ConfigError(f"run {record.run_id} is being resumed or tidied up by another process at this moment")
        if why := why_not(folder, record):
            raise ConfigError(why)
        tidy.claim(folder)
    shutil.rmtree(folder / tidy.PEERS, ignore_errors=True)
    record = replace(record, status="running", exit_code=None)
    records.save(folder, record)
    try:
        yield record
    finally:
        tidy.release(folder)


def settled(record: Record, past: Past, store: Store) -> tuple[Past, Applied | None]:
    """What became of the run's write, once `recovery.py` has ended it; the event that the log lacks. Blocks.

    Raises ConfigError: it was written by `massgen apply` since.
    """
    written, said = record.written, past.applied
    if written is None or (said and said.snapshot == written.snapshot):
        return (past if written else replace(past, applied=None)), None
    if past.lease is None:
        raise ConfigError(
            f"the answer of run {record.run_id} was written since it died; to resume it take that back first: "
            f"massgen undo {record.run_id}"
        )
    files = files_of(store.get_snapshot(written.snapshot))
    event = Applied(purpose=written.purpose, snapshot=written.snapshot, undo=written.undo, files=files)
    return replace(past, applied=event), event


def check(record: Record, past: Past, relived: Relived) -> None:
    """Raises ConfigError when there is nothing to go on with, although the log has no end of its own."""
    if isinstance(relived.end, Finish) and past.ended:
        raise ConfigError(f"no agent of run {record.run_id} is left, and none had answered; start a new run with `massgen run`")


def waiting(state_dir: Path, runs: Iterable[str]) -> list[Notice]:
    """That these runs died and can be resumed, said at the next start. Blocks."""
    said = []
    for run in runs:
        folder = state_dir / "runs" / run
        with suppress(ConfigError, OSError):
            record = records.load(folder)
            if record.invocation and not why_not(folder, record):
                said.append(Notice(text=f"run {run} was killed before its end; to go on with it: massgen resume {run}"))
    return said


# -- what changed meanwhile -------------------------------------------------------------------------------------


def config_changes(then: str, now: str) -> tuple[str, ...]:
    """Keys that two resolved configs (YAML) differ in. Raises ConfigError when the log depends on one of them."""
    before, after = _flat(yaml.safe_load(then)), _flat(yaml.safe_load(now))
    changed = tuple(key for key in (*before, *(k for k in after if k not in before)) if before.get(key) != after.get(key))
    fixed = [key for key in changed if _decides(key)]
    if fixed:
        raise ConfigError(
            f"{_some(fixed)} changed since the run began, and its log would mean something else with that; "
            "put it back to resume, or start a new run"
        )
    return changed


def _decides(key: str) -> bool:
    return key == "agents" or key.startswith("orchestrator.") or ".context_paths" in key


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    agents = value.get("agents", [])
    found: dict[str, Any] = {"agents": [agent["id"] for agent in agents]}
    for name, inner in [*((f"agents.{agent['id']}", agent) for agent in agents), *value.items()]:
        if name != "agents":
            found |= _leaves(name, inner)
    return found


def _leaves(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for inner, each in value.items() for key, leaf in _leaves(f"{name}.{inner}", each).items()}


def project_changes(record: Record, past: Past, base: Base, store: Store) -> tuple[str, ...]:
    """Files of the write paths that somebody changed since the run began, unless the run itself has written. Blocks."""
    if past.applied or past.lease or not record.listing:
        return ()
    try:
        changed = base.changed_since(store.get(record.listing))
    except SnapshotError:
        return ()
    return tuple(path for path in changed if OURS not in Path(path).parts)


def opening(past: Past, *, events: int, version: str) -> list[RunResumed | SandboxEnded | Notice]:
    """The events that a resumed run begins with: it goes on, its old containers are gone, what is done a second time."""
    said: list[RunResumed | SandboxEnded | Notice] = [RunResumed(after=past.ended or "killed", events=events, version=version)]
    said += [SandboxEnded(agent=box.agent, role=box.role, container=box.container) for box in past.boxes]
    for agent, calls in past.looks.items():
        under_way = "; the model call that was under way is made again, and its provider may count it twice"
        again = under_way if agent in past.asked else ""
        done = f"; {calls} model {'call' if calls == 1 else 'calls'} of it for nothing" if calls else ""
        text = f"had not ended its look when the run died, so it looks again{again}{done}"
        said.append(Notice(agent=agent, text=text, level="warning"))
    return said


def told_config(changed: tuple[str, ...]) -> list[Notice]:
    """What changed in the config meanwhile, for people."""
    return [Notice(text=f"changed in the config since the run began, and used as it is now: {_some(changed)}")] if changed else []


def told_project(changed: tuple[str, ...]) -> list[Notice]:
    """What changed in the project meanwhile, for people."""
    text = f"changed in your project since the run began: {_some(changed)}; agents see it as it is now"
    return [Notice(text=text, level="warning")] if changed else []


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
