"""Who works on a run, where and with what: one room, one model and one seat per agent, a verifier; then coordination to the end.

Only the parts meet here; what begins a run, and what becomes of an error in it, is `app.py`'s. Errors go through as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread

from massgen.agent import prompts
from massgen.agent.circuit import Circuit, Circuits
from massgen.agent.metered import metered
from massgen.agent.session import BODY, Session, build_body_zip, mounted, open_session
from massgen.config.backends import TABLE
from massgen.config.model import AgentConfig, Config
from massgen.coordination import begin
from massgen.coordination import record as records
from massgen.coordination.archive import Archive
from massgen.coordination.chair import Seat
from massgen.coordination.conclude import Conclusion, conclude
from massgen.coordination.orchestrator import Coordination
from massgen.coordination.patience import Patience
from massgen.coordination.prepared import Ready
from massgen.coordination.record import Record
from massgen.coordination.relive import NOTHING, Past, relive
from massgen.coordination.rooms import Rooms
from massgen.coordination.shown import masked_mounts
from massgen.coordination.state import start
from massgen.coordination.target import Target
from massgen.coordination.verify import VERIFY_TIMEOUT_S, Verifier
from massgen.events.codec import Envelope
from massgen.events.log import EventLog
from massgen.events.types import Notice
from massgen.messages import Message, Usage
from massgen.models.base import Model
from massgen.models.team import open_models
from sandbox import Engine, Mount, Sandbox, Store, cache_folder


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made from."""

    config: Config
    record: Record
    """As it was at the start."""
    engine: Engine
    ready: Ready
    folder: Path
    state_dir: Path
    log: EventLog
    past: Past = NOTHING
    """What happened before, in another process."""
    notices: tuple[Notice, ...] = ()

    @property
    def agents(self) -> dict[str, AgentConfig]:
        """By label, in registration order."""
        return dict(zip(begin.labels(self.config), self.config.agents, strict=True))


async def worked(parts: Parts, patience: Patience, models: AsyncExitStack) -> Conclusion:
    """Coordination, final turn, verify, write. Raises: MassgenError, SandboxError; `models` closes what was opened."""
    config, log, record, past = parts.config, parts.log, parts.record, parts.past
    agents = parts.agents
    store = await anyio.to_thread.run_sync(Store, parts.state_dir / "store")
    target = Target(roots=tuple(map(Path, record.roots)), protected=tuple(map(Path, record.protected)))
    archive, notices = await anyio.to_thread.run_sync(begin.archive, record, past, parts.folder, store)
    for notice in notices:
        log.emit(notice)
    body = await anyio.to_thread.run_sync(build_body_zip, cache_folder())
    mounts = await models.enter_async_context(
        masked_mounts(parts.ready.shown.values(), parts.engine, parts.ready.image, log.emit, record.runtime)
    )
    rooms = _rooms(parts, mounts, archive.peers, body)
    opened = metered(await open_models(config.agents, models), config, patience.spent.set, before=_spent(agents, past))
    circuits = Circuits()

    def seats(plan: str | None) -> dict[str, Seat]:
        return {
            label: Seat(
                label=label,
                own=tuple(mounts[path.path] for path in agent.context_paths),
                needs_verdicts=agent.strategy == "repair",
                open_session=partial(
                    _session,
                    config=config,
                    agent=agent,
                    label=label,
                    labels=tuple(agents),
                    model=opened[agent.id],
                    log=log,
                    cwd=rooms.cwd,
                    deadline=patience.deadline,
                    circuit=circuits.of(agent),
                    system_message=prompts.planned(agent.system_message, plan),
                ),
            )
            for label, agent in agents.items()
        }

    verifier = _verifier(parts, rooms, store, target, archive) if config.verify else None
    coordination = Coordination(
        task=record.prompt,
        seats=tuple(seats(config.coordination.plan).values()),
        rooms=rooms,
        archive=archive,
        log=log,
        rules=begin.rules(config),
        novelty=config.coordination.answer_novelty,
        verifier=verifier,
        context=parts.ready.context,
        look_timeout_s=config.timeouts.agent_s,
        past=relive(start(list(agents), begin.rules(config)), past) if past.started else None,
    )
    decided = await coordination.run(patience)
    return await conclude(
        decided,
        task=record.prompt,
        seats=seats(None),  # the plan is made: its instruction would hold the winner back
        rooms=rooms,
        archive=archive,
        log=log,
        context=parts.ready.context,
        patience=patience,
        verifier=verifier,
        target=target,
        write_mode=config.write,
        allowed=config.allow,
        past=past,
        save=lambda change: records.save(parts.folder, change(records.load(parts.folder))),
    )


def _rooms(parts: Parts, mounts: Mapping[Path, Mount], peers: Path, body: Path) -> Rooms:
    config = parts.config
    return Rooms(
        run_id=parts.record.run_id,
        engine=parts.engine,
        emit=parts.log.emit,
        image=parts.ready.image,
        limits=config.sandbox.limits,
        runtime=parts.record.runtime,
        mounts=tuple(mounts[path.path] for path in config.context_paths),
        peers=peers,
        tools={BODY: body},
        programs={label: _mounted(agent) for label, agent in parts.agents.items()},
        cwd=begin.working_folder(config),
        read_only=config.coordination.mode == "read_only",
    )


def _mounted(agent: AgentConfig) -> dict[str, Path]:
    return {mounted(name): path for name, path in agent.backend.program.items()}


def _verifier(parts: Parts, rooms: Rooms, store: Store, target: Target, archive: Archive) -> Verifier:
    """One that knows already what was verified before the run was resumed."""
    verifier = Verifier(
        command=parts.config.verify,
        cwd=rooms.cwd,
        store=store,
        protected=target.protected_names,
        open_box=lambda agent: rooms.open("verify", agent),
        timeout_s=max(VERIFY_TIMEOUT_S, parts.config.sandbox.limits.command_timeout_s),
    )
    for answer in parts.past.answers:
        verifier.remember(archive.get(answer.answer).snapshot, archive.verdict(answer.answer))
    return verifier


def _session(
    box: Sandbox,
    transcript: tuple[Message, ...],
    *,
    config: Config,
    agent: AgentConfig,
    label: str,
    labels: tuple[str, ...],
    model: Model,
    log: EventLog,
    cwd: str,
    deadline: float,
    circuit: Circuit,
    system_message: str,
) -> AbstractAsyncContextManager[Session]:
    return open_session(
        label=label,
        labels=labels,
        model=model,
        sandbox=box,
        emit=lambda event: _ignore(log.emit(event)),
        system_message=system_message,
        strategy=agent.strategy,
        program=TABLE[agent.backend.type].program,
        settings=agent.backend.settings,
        cwd=cwd,
        verify=config.verify,
        transcript=transcript,
        temperature=agent.backend.temperature,
        max_tokens=agent.backend.max_tokens,
        command_timeout_s=config.sandbox.limits.command_timeout_s,
        deadline=deadline,
        circuit=circuit,
    )


def _spent(agents: Mapping[str, AgentConfig], past: Past) -> list[tuple[str, Usage, float | None]]:
    return [(agents[call.agent].id, call.usage, call.cost_usd) for call in past.calls if call.agent in agents]


def _ignore(_envelope: Envelope) -> None:
    """Sessions report; where it lands in the log is no business of theirs."""
