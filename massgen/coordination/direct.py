"""Write mode `direct`: the winner's final turn itself runs in the one container with write mounts.

There is no snapshot to check before the write, so everything is stored first: the write paths, whole, up to a
size. Afterwards the host lists them again (the container is gone by then), and the difference is both the
record of what happened and the undo, however the turn ended. The mode is refused where that cannot be kept:
trees beyond 512 MiB, and projects owned by root (agents never run as root).

When the final turn fails, runs out of time, or makes the verify command worse, the write is taken back by an
undo lease, and what was voted for goes the ordinary way.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from massgen.agent.view import Decision, Failed, Presented
from massgen.coordination.final import Result, Stage, is_worse, look, say, verify, why
from massgen.coordination.verify import is_below
from massgen.coordination.writeback import Target, Written, conflict, grant, undo_snapshot
from massgen.errors import ConfigError, VerifyFailed
from massgen.events.types import Applied, Notice
from sandbox import WORKSPACE, Drift, SandboxError, Snapshot, Store
from sandbox.base import Base, Key, Original, absolute
from sandbox.drafts import tree
from sandbox.snapshot import Entry, is_git_name
from sandbox.spec import MIB

MAX_BYTES = 512 * MIB

Survey = Mapping[Key, Original]


@dataclass(frozen=True, kw_only=True)
class Direct:
    """How it went."""

    result: Result | None
    """None: it failed and was taken back; the voted answer is to be applied."""
    written: Written | None


def check(roots: Iterable[Path]) -> None:
    """Refuse what `direct` cannot protect. Call it before the run costs anything. Blocks. Raises ConfigError."""
    total = 0
    for root in roots:
        if root.lstat().st_uid == 0:
            raise ConfigError(
                f"write mode direct is refused: {root} belongs to root, and agents never run as root; use write mode apply"
            )
        total += sum(found.size for found in tree(root))
    if total > MAX_BYTES:
        raise ConfigError(
            f"write mode direct is refused: the write paths hold {total // MIB} MiB, and at most {MAX_BYTES // MIB} MiB are "
            "stored for undo; use write mode apply"
        )


async def present_direct(stage: Stage, *, target: Target, base: Base) -> Direct:
    """The final turn in the leased container.

    Raises: ApplyConflict, ConfigError, with nothing written; VerifyFailed when the agent changed what must not change.
    """
    store, log, label = stage.archive.store, stage.log, stage.seat.label
    await anyio.to_thread.run_sync(check, target.roots)
    before = await anyio.to_thread.run_sync(survey, target.roots, store)
    git_before = await anyio.to_thread.run_sync(git_folders, target.roots)
    voted = base.project(stage.voted.snapshot)
    if drifted := await anyio.to_thread.run_sync(base.drifted, voted):
        raise conflict(drifted, log)
    expected = await anyio.to_thread.run_sync(base.expected, voted)

    lease = grant("direct", "", agent=label, target=target, run_id=stage.rooms.run_id, log=log)
    decision: Decision | None = None
    try:
        async with stage.rooms.open("final", label, own=stage.seat.own, lease=lease) as box:
            await box.commit(voted, store, expected=expected)
            await box.apply(Snapshot(entries=stage.voted.snapshot.under(WORKSPACE)), store)
            decision = await stage.patience.bounded(lambda: look(stage, box, direct=True))
    except Drift as error:
        raise conflict(error.paths, log) from error
    except SandboxError as error:
        decision = Failed(why=str(error))
    finally:
        # Whatever ended it: what was written is on record, with its undo, before anything else happens.
        with anyio.CancelScope(shield=True):
            written = await anyio.to_thread.run_sync(_account, before, target.roots, store)
            if written.snapshot.entries:
                log.emit(Applied(purpose="direct", snapshot=written.snapshot.id, undo=written.undo.id, files=written.files))
    absent = Original(kind="absent")
    base.remember({(e.root, e.path): before.get((e.root, e.path), absent) for e in written.snapshot.entries})
    forbidden = sorted(
        [name for name in written.files if is_below(name, target.protected_names)]
        + [str(path) for path in await anyio.to_thread.run_sync(git_folders, target.roots) - git_before]
    )
    if forbidden:
        raise VerifyFailed(f"the final turn made or changed {forbidden[0]}, which is protected; look at it, then `massgen undo`")
    return await _judged(stage, decision, written, target)


async def _judged(stage: Stage, decision: Decision | None, written: Written, target: Target) -> Direct:
    verdict = await verify(stage, written.snapshot) if isinstance(decision, Presented) else None
    if stage.patience.over:
        trouble = "the run ended during the final turn"
    elif not isinstance(decision, Presented):
        trouble = f"the final turn ended without a presentation ({why(decision) if decision else 'stopped'})"
    elif verdict and is_worse(verdict, stage.archive.verdict(stage.voted.id)):
        trouble = f"the final turn made the verify command worse ({verdict.summary})"
    else:
        patch = await anyio.to_thread.run_sync(stage.archive.patch, written.snapshot)
        result = Result(agent=stage.seat.label, text=decision.text, snapshot=written.snapshot, patch=patch, verdict=verdict)
        say(stage.log, result)
        return Direct(result=result, written=written)
    stage.log.emit(Notice(text=f"{trouble}; what it wrote is taken back, the voted answer stands", level="warning"))
    await undo_snapshot(
        written.snapshot,
        written.undo,
        agent=stage.seat.label,
        target=target,
        rooms=stage.rooms,
        store=stage.archive.store,
        log=stage.log,
    )
    return Direct(result=None, written=None)


def survey(roots: Iterable[Path], store: Store) -> Survey:
    """Every path of the roots with its content stored. Blocks."""
    base = Base.take(roots, store)
    return {(str(root), found.path): base.original(str(root), found.path) for root in base.roots for found in tree(root)}


def git_folders(roots: Iterable[Path]) -> set[Path]:
    """Everything below the roots that git could take for a repository's own. Blocks."""
    found: set[Path] = set()
    for root in roots:
        for folder, folders, files in os.walk(root):
            found.update(Path(folder) / name for name in (*folders, *files) if is_git_name(name))
            folders[:] = [name for name in folders if not is_git_name(name)]
    return found


def _account(before: Survey, roots: tuple[Path, ...], store: Store) -> Written:
    now = survey(roots, store)
    done, undo = _changes(before, now), _changes(now, before)
    store.put_snapshot(done)
    store.put_snapshot(undo)
    return Written(snapshot=done, undo=undo, files=tuple(absolute(e.root, e.path) for e in done.entries if e.kind != "dir"))


def _changes(before: Survey, now: Survey) -> Snapshot:
    """What makes `before` into `now`."""
    keys = sorted(before.keys() | now.keys())
    return Snapshot(
        entries=tuple(_entry(key, now.get(key)) for key in keys if _identity(before.get(key)) != _identity(now.get(key)))
    )


def _identity(original: Original | None) -> tuple[str, int, str, str] | None:
    if original is None or original.kind in ("absent", "other"):
        return None
    mode = 0 if original.kind == "link" else original.mode
    return original.kind, mode, original.sha256, original.target


def _entry(key: Key, now: Original | None) -> Entry:
    root, path = key
    match now:
        case Original(kind="file" | "dir" as kind):
            return Entry(root=root, path=path, kind=kind, mode=now.mode & 0o777, size=now.size, sha256=now.sha256)
        case Original(kind="link"):
            return Entry(root=root, path=path, kind="link", target=now.target)
        case _:
            return Entry(root=root, path=path, kind="gone")
