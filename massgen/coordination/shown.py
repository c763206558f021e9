"""How each context path is shown to agents: which kind of draft, what of its repository, and why it is less where it is less.

Decided once for a run, before anything starts, and said in its first event; the layers that hide are then made once for all of
its containers. A plan without an engine (`--dry-run`) says the same as far as the machine alone tells.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio.to_thread

from massgen.config.model import ContextPath
from massgen.context.history import Repository
from massgen.context.rules import Rules
from massgen.events.types import Event, Notice
from sandbox import Engine, Mount
from sandbox.gitmask import is_repository
from sandbox.repository import MAX_BYTES
from sandbox.spec import MIB, DraftKind, GitView
from sandbox.views import Choice, agent_uid, choose, foresee, masked


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One context path, decided."""

    mount: Mount
    choice: Choice
    repository: Repository

    @property
    def row(self) -> dict[str, Any]:
        """For events and plans; without keys that have nothing to say."""
        kind = {"draft": self.choice.kind} if self.mount.mode == "draft" else {}
        found = {**kind, "draft_why": self.choice.why, "git": self.repository.view, "git_why": self.repository.why}
        return {key: value for key, value in found.items() if value}


async def decide(
    paths: Iterable[ContextPath], context: Rules, *, draft: DraftKind, engine: Engine, image: str, runtime: str = ""
) -> dict[Path, Shown]:
    """By path. Raises SpecError (an overlay was demanded and cannot be), SandboxError."""
    found: dict[Path, Shown] = {}
    for path in paths:
        mount = _mount(path, context, draft)
        choice = await choose(engine, image, mount, uid=agent_uid(), runtime=runtime)
        found[path.path] = await anyio.to_thread.run_sync(_shown, mount, choice, context)
    return found


def foreseen(path: ContextPath, context: Rules, *, draft: DraftKind) -> Shown:
    """The same without an engine. Blocks. Raises SpecError."""
    mount = _mount(path, context, draft)
    return _shown(mount, foresee(mount, uid=agent_uid()), context)


@asynccontextmanager
async def masked_mounts(
    shown: Iterable[Shown], engine: Engine, image: str, emit: Callable[[Event], object], runtime: str
) -> AsyncIterator[dict[Path, Mount]]:
    """The mounts by path, with what they hide made for the time of the block. Raises SpecError, SandboxError."""
    async with masked([one.mount for one in shown], engine=engine, image=image, runtime=runtime) as mounts:
        for mount in mounts:
            if mount.mask and mount.mask.git != mount.git:
                text = f"the repository of {mount.source} could not be prepared: {mount.mask.git} is shown, not {mount.git}"
                emit(Notice(text=text, level="warning"))
        yield {mount.source: mount for mount in mounts}


def _mount(path: ContextPath, context: Rules, draft: DraftKind) -> Mount:
    git: GitView = "clean" if is_repository(path.path) else "hide"
    if path.permission == "write":
        return Mount(source=path.path, mode="draft", withhold=context.withhold(path.path), draft=draft, git=git)
    return Mount(source=path.path, mode="ro", withhold=context.withhold(path.path), git=git)


def _shown(mount: Mount, choice: Choice, context: Rules) -> Shown:
    """The history is judged only where it could be shown: that may take a while."""
    if choice.kind == "overlay" and mount.git != "hide":
        repository = context.repository(mount.source)
        return Shown(mount=replace(mount, git=repository.view), choice=choice, repository=repository)
    return Shown(mount=replace(mount, git="hide"), choice=choice, repository=_instead(mount, choice, context))


def _instead(mount: Mount, choice: Choice, context: Rules) -> Repository:
    if mount.git == "hide":
        return Repository(view="hide")
    if choice.kind == "bind":
        return Repository(view="hide", why="this mount has no history")
    if context.listings[mount.source].bytes > MAX_BYTES:
        return Repository(view="hide", why=f"a copy of more than {MAX_BYTES // MIB} MiB has no history")
    return Repository(view="fresh", why="a copy has one commit of what is in it")
