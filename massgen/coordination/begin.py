"""What a run is before its first container: its record, mounts, labels, first event, and what an earlier process left of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from massgen.config.model import Config
from massgen.coordination import record as records
from massgen.coordination import tidy
from massgen.coordination.archive import Archive
from massgen.coordination.originals import Originals
from massgen.coordination.peers import Peers
from massgen.coordination.record import Record
from massgen.coordination.relive import Past
from massgen.coordination.resume import project_changes, told_project
from massgen.coordination.state import Rules
from massgen.events.types import Notice
from sandbox import Store
from sandbox.base import Base, originals_from, originals_of


def labels(config: Config) -> list[str]:
    """`agent1`, …: anonymous, by registration order."""
    return [f"agent{number}" for number in range(1, len(config.agents) + 1)]


def rules(config: Config) -> Rules:
    """What coordination goes by."""
    return Rules(
        verify=bool(config.verify),
        max_new_answers_per_agent=config.coordination.max_new_answers_per_agent,
        max_new_answers_global=config.coordination.max_new_answers_global,
        consensus=config.coordination.consensus,
        max_debates=config.coordination.max_debates,
    )


def record(config: Config, *, run_id: str, started: str, prompt: str, invocation: dict[str, Any]) -> Record:
    """What `run.json` says at first."""
    return Record(
        run_id=run_id,
        started=started,
        prompt=prompt,
        image=config.sandbox.image,
        runtime=config.sandbox.runtime,
        write_mode=config.write,
        verify=config.verify,
        roots=tuple(str(path.path) for path in config.write_paths),
        protected=tuple(str(p) for path in config.write_paths for p in path.protected_paths),
        agents=tuple({"id": agent.id, "label": label} for agent, label in zip(config.agents, labels(config), strict=True)),
        invocation=invocation,
    )


def archive(record: Record, past: Past, folder: Path, store: Store) -> tuple[Archive, list[Notice]]:
    """Where answers are kept, and the project as agents see it; of a run that goes on with what it had. Blocks.

    With what is to be said of it. Raises SnapshotError: contents of an answer are gone.
    """
    base = Base.take(map(Path, record.roots), store)
    originals = Originals(folder)
    if past.started is None:
        records.save(folder, replace(record, listing=store.put(base.listing_json())))
    base.remember(originals_from([*originals.load(), *record.originals]))
    if past.applied:
        base.remember(originals_of(store.get_snapshot(past.applied.undo)))
    changed = project_changes(record, past, base, store)
    made = Archive(store=store, base=base, peers=Peers(folder / tidy.PEERS, store), originals=originals)
    made.restore(past.answers, past.verdicts)
    return made, told_project(changed)


def working_folder(config: Config) -> str:
    """The first write path, else the first context path, else `/workspace`; of a file its folder."""
    for path in (*config.write_paths, *config.context_paths):
        return str(path.path if path.path.is_dir() else path.path.parent)
    return "/workspace"
