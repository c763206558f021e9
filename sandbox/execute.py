"""One command in a sandbox of its own, over throw-away drafts, with what it changed as a patch if somebody wants it.

Memory is taken as an engine takes it: what the command writes into its folders counts, and only a quarter of it may be files, so
that the guest outlives whoever fills them. What copy drafts hold before the command begins comes on top (`Limits`).
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.to_thread

from sandbox import scratch
from sandbox.base import Base
from sandbox.box import Sandbox
from sandbox.engines.base import Engine
from sandbox.outcome import Outcome
from sandbox.patch import render
from sandbox.spec import MIB, WORKSPACE, Limits, Mount, SandboxSpec
from sandbox.store import Store

SHARE_OF_FILES = 4
LEAST_FILES_BYTES = 8 * MIB


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
    cwd: str = WORKSPACE
    env: Mapping[str, str] = field(default_factory=dict)
    idle_timeout_s: float | None = None
    max_output_bytes: int | None = None
    patch: bool = False
    """Whether the changes are wanted."""
    runtime: str = ""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of it."""

    outcome: Outcome
    start_s: float
    patch: str = ""
    changed: int = 0
    """Files, when the patch was asked for."""


async def execute(
    job: Job,
    *,
    engine: Engine,
    stdin: bytes | AsyncIterable[bytes] = b"",
    on_output: Callable[[int, bytes], Awaitable[None] | None] | None = None,
    withhold: Callable[[Path], tuple[str, ...]] = lambda _path: (),
) -> Done:
    """Run it to its end. Cancellation leaves nothing. Raises what `Sandbox.open` raises."""
    hidden = {path: withhold(path) for path in (*job.read, *job.write)}
    mounts = [Mount(source=path, mode="ro", withhold=hidden[path]) for path in job.read]
    mounts += [Mount(source=path, mode="draft", withhold=hidden[path]) for path in job.write]
    spec = SandboxSpec(image=job.image, mounts=tuple(mounts), limits=_limits(job), env=job.env, cwd=job.cwd, runtime=job.runtime)
    with scratch.folder("exec") as folder:
        store = Store(folder)
        base = await anyio.to_thread.run_sync(Base.take, job.write if job.patch else (), store)
        async with Sandbox.open(spec, engine=engine) as box:
            outcome = await box.run(
                job.argv,
                stdin=stdin,
                on_output=on_output,
                idle_timeout_s=job.idle_timeout_s,
                max_output_bytes=job.max_output_bytes,
            )
            done = Done(outcome=outcome, start_s=box.start_s)
            if not job.patch or outcome.reason in ("lost", "engine"):
                return done
            snapshot = base.changes(base.project(await box.snapshot(store)))
        roots = [str(path) for path in job.write]
        made = await anyio.to_thread.run_sync(
            lambda: render(snapshot, original=base.original, content=store.get, roots=roots, binary=True)
        )
    return replace(done, patch=made.text, changed=len(made.changes))


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
