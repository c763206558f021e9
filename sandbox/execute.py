"""One command in a sandbox of its own, over throw-away drafts, with what it changed as a patch if somebody wants it.

Memory is taken as an engine takes it: what the command writes into its folders counts, and only a quarter of it may be files, so
that the guest outlives whoever fills them. What copy drafts hold before the command begins comes on top (`Limits`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.to_thread

from sandbox import scratch
from sandbox.base import Base
from sandbox.box import Sandbox
from sandbox.engines.base import Engine
from sandbox.errors import GuestError, SandboxLost
from sandbox.gitmask import is_repository
from sandbox.outcome import Outcome
from sandbox.patch import render
from sandbox.repository import committed
from sandbox.spec import MIB, WORKSPACE, GitView, Limits, Mount, SandboxSpec
from sandbox.store import Store
from sandbox.views import agent_uid, foresee

SHARE_OF_FILES = 4
LEAST_FILES_BYTES = 8 * MIB
MAX_PATCH_BYTES = 128 * MIB
"""Of all contents in a patch, old and new: they are in memory several times while it is made."""
_PEAKS = {
    "memory": ("memory.peak", "memory/memory.max_usage_in_bytes"),
    "pids": ("pids.peak", "pids/pids.peak"),
}
"""What the kernel keeps of a container, below /sys/fs/cgroup: version 2, then 1. Old kernels keep less."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be run, and over what."""

    argv: Sequence[str]
    image: str
    limits: Limits = field(default_factory=Limits)
    """`memory_bytes` is all of it, the content of copy drafts apart; `workspace_bytes` is not looked at, see `disk_bytes`."""
    disk_bytes: int | None = None
    """What may be written into each folder; it is added to the memory. None: a quarter of the memory."""
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    """Shown as drafts; the host's files cannot change."""
    withhold: Callable[[Path], tuple[str, ...]] = lambda _path: ()
    """Of each of these paths: what is never shown. Asked in a thread, as is `git`."""
    git: Callable[[Path], GitView] = lambda _path: "clean"
    """What of the repository at its top is, where an overlay can show one."""
    cwd: str = WORKSPACE
    env: Mapping[str, str] = field(default_factory=dict)
    idle_timeout_s: float | None = None
    max_output_bytes: int | None = None
    patch: bool = False
    """Whether the changes are wanted."""
    peaks: bool = False
    """Whether the kernel is asked for the peaks of the whole sandbox."""
    runtime: str = ""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of it."""

    outcome: Outcome
    start_s: float
    patch: str = ""
    changed: int = 0
    """Files, when the patch was asked for."""
    left_out: tuple[str, ...] = ()
    """Changed files that the patch does not hold: it would be too large, or nobody can read them."""
    mounts: tuple[Mapping[str, str], ...] = ()
    """What was shown, as `Sandbox.mounts` says it."""


async def execute(
    job: Job,
    *,
    engine: Engine,
    stdin: bytes | AsyncIterable[bytes] = b"",
    on_output: Callable[[int, bytes], Awaitable[None] | None] | None = None,
) -> Done:
    """Run it to its end. Cancellation leaves nothing. Raises what `Sandbox.open` raises, and what the job's rules raise."""
    mounts = await anyio.to_thread.run_sync(_mounts, job)
    spec = SandboxSpec(image=job.image, mounts=mounts, limits=_limits(job), env=job.env, cwd=job.cwd, runtime=job.runtime)
    with scratch.folder("exec") as folder:
        store = Store(folder)
        base = await anyio.to_thread.run_sync(Base.take, job.write if job.patch else (), store)
        async with Sandbox.open(spec, engine=engine) as box:
            shown = await committed(box)
            outcome = await box.run(
                job.argv,
                stdin=stdin,
                on_output=on_output,
                idle_timeout_s=job.idle_timeout_s,
                max_output_bytes=job.max_output_bytes,
            )
            if job.peaks and (await engine.facts()).isolates:
                outcome = await _with_peaks(box, outcome)
            done = Done(outcome=outcome, start_s=box.start_s, mounts=shown)
            if not job.patch or outcome.reason in ("lost", "engine"):
                return done
            snapshot = base.changes(base.project(await box.snapshot(store)))
        roots = [str(path) for path in job.write]
        made = await anyio.to_thread.run_sync(
            lambda: render(
                snapshot, original=base.original, content=store.get, roots=roots, binary=True, limit_bytes=MAX_PATCH_BYTES
            )
        )
    left_out = (*(change.path for change in made.changes if not change.whole), *snapshot.left_out)
    return replace(done, patch=made.text, changed=len(made.changes), left_out=left_out)


def _mounts(job: Job) -> tuple[Mount, ...]:
    """The repository is asked about only where it could be shown: that may take a walk of its history."""
    mounts = [Mount(source=path, mode="ro", withhold=job.withhold(path), git="clean") for path in job.read]
    mounts += [Mount(source=path, mode="draft", withhold=job.withhold(path), git="clean") for path in job.write]
    shown = [foresee(mount, uid=agent_uid()).kind == "overlay" and is_repository(mount.source) for mount in mounts]
    return tuple(replace(m, git=job.git(m.source) if able else "hide") for m, able in zip(mounts, shown, strict=True))


async def _with_peaks(box: Sandbox, outcome: Outcome) -> Outcome:
    """What the kernel counted, where it does and the sandbox still answers; else what was known before."""
    found = {"memory": 0, "pids": 0}
    for name, places in _PEAKS.items():
        for place in places:
            with contextlib.suppress(GuestError, SandboxLost, ValueError):
                found[name] = int(await box.read(f"/sys/fs/cgroup/{place}", max_bytes=4096))
                break
    if not found["memory"]:
        return outcome
    return replace(outcome, peak_memory_bytes=found["memory"], peak_pids=found["pids"] or outcome.peak_pids, peak_of="sandbox")


def _limits(job: Job) -> Limits:
    memory = job.limits.memory_bytes
    room = max(memory // SHARE_OF_FILES, LEAST_FILES_BYTES) if job.disk_bytes is None else job.disk_bytes
    return replace(
        job.limits,
        memory_bytes=memory + (job.disk_bytes or 0),
        memory_covers_files=True,
        workspace_bytes=room,
        tmp_bytes=max(memory // (4 * SHARE_OF_FILES), LEAST_FILES_BYTES // 2),
    )
