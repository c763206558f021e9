"""The containers of one run: who gets which paths, under which labels, and the events that say so.

Every container of a run is opened here, so this page is the whole answer to "who can see or write what":

    role     project paths      /peers   agent body   lease
    agent    drafts and ro *    yes      yes          never
    verify   drafts and ro      no       no           never
    merge    none               no       no           never
    final    drafts and ro      yes      yes          only in write mode `direct`
    lease    the write roots    no       no           always

    * all ro where coordination is read-only: then only the final turn has drafts
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from massgen.agent.view import Place
from massgen.events.types import Event, SandboxEnded, SandboxStarted
from sandbox import Engine, EngineDied, EngineUnavailable, Lease, Limits, Mount, Sandbox, SandboxLost, SandboxSpec, StoreError
from sandbox.repository import committed

ALIVE_S = 10.0
"""For `true` in a container whose agent failed: whether it is the container that is gone."""

NOT_THE_AGENTS = (EngineDied, EngineUnavailable, StoreError)
"""Troubles of the machine's: whoever meets one has not failed, and the run waits for somebody to mend it."""

Role = Literal["agent", "verify", "merge", "final", "lease"]


@dataclass(frozen=True, kw_only=True)
class Rooms:
    """What all containers of a run have in common, and how one is opened."""

    run_id: str
    engine: Engine
    emit: Callable[[Event], object]
    image: str
    limits: Limits = field(default_factory=Limits)
    runtime: str = ""
    mounts: tuple[Mount, ...] = ()
    """The context paths that everybody sees: `ro` or `draft`."""
    peers: Path | None = None
    tools: Mapping[str, Path] = field(default_factory=dict)
    """Program files of agents (the body), by their path inside."""
    programs: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    """By agent: the programs of its user that it is, mounted read-only beside `tools`."""
    cwd: str = "/workspace"
    read_only: bool = False
    """Agents get no drafts before the final turn."""

    @asynccontextmanager
    async def open(
        self, role: Role, agent: str, *, own: tuple[Mount, ...] = (), lease: Lease | None = None
    ) -> AsyncIterator[Sandbox]:
        """A container in the given role. Raises: what `Sandbox.open` raises."""
        working = role in ("agent", "final")
        spec = SandboxSpec(
            image=self.image,
            mounts=self._mounts(role, own),
            tools={**self.tools, **self.programs.get(agent, {})} if working else {},
            peers=self.peers if working else None,
            limits=self.limits,
            runtime=self.runtime,
            cwd="/workspace" if role in ("lease", "merge") else self.cwd,
            labels={
                "massgen.run": self.run_id,
                "massgen.agent": agent,
                "massgen.role": role,
                "massgen.phase": "coordination" if role in ("agent", "verify") else "final",
            },
        )
        container = ""
        try:
            async with Sandbox.open(spec, engine=self.engine, lease=lease) as box:
                shown = await committed(box) if working or role == "verify" else box.mounts
                container = box.container
                self.emit(
                    SandboxStarted(
                        agent=agent,
                        role=role,
                        container=container,
                        mounts=tuple(dict(m) for m in shown),
                        start_s=box.start_s,
                    )
                )
                yield box
        finally:
            if container:
                self.emit(SandboxEnded(agent=agent, role=role, container=container))

    def places(self, own: tuple[Mount, ...] = (), final: Literal["", "draft", "write"] = "") -> tuple[Place, ...]:
        """The context paths as a prompt names them; `final`: what a write path is in the final turn (empty: before it)."""
        draft: Literal["later", "draft", "write"] = final or ("later" if self.read_only else "draft")
        return tuple(Place(path=m.inside, mode=draft if m.mode == "draft" else "read") for m in (*self.mounts, *own))

    def _mounts(self, role: Role, own: tuple[Mount, ...]) -> tuple[Mount, ...]:
        # Under a direct lease the drafts stay in the list: the plan replaces them, and takes what they withhold.
        if role in ("lease", "merge"):
            return ()
        if role == "agent" and self.read_only:
            return tuple(replace(m, mode="ro") for m in (*self.mounts, *own))
        return (*self.mounts, *own)


async def still_there(box: Sandbox, why: str) -> None:
    """After a look that failed for some reason. Raises: EngineDied, SandboxLost: it was not the agent."""
    outcome = await box.run(["true"], timeout_s=ALIVE_S)
    if outcome.reason == "engine":
        raise EngineDied(f"the container engine is gone ({why})", op="look")
    if outcome.reason == "lost":
        raise SandboxLost(f"its container is gone ({why})", op="look")
