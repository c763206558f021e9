"""The composition root: a config and a question become a run with a log, a result, and at most one write.

    remove what dead runs left, end what they were writing · walk the context paths · models · one seat per agent · coordination
    → final turn → verify → write as the mode says → run.json → RunFinished

Whatever is expected to go wrong ends in a readable run: the error becomes the exit code and message of the
terminal event and of the returned `RunResult`. Only what is wrong before a run exists (config, engine, image) is
raised. Errors of `sandbox` are translated here and in `coordination/later.py`, nowhere else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from massgen.agent.circuit import Circuit, Circuits
from massgen.agent.metered import metered
from massgen.agent.session import BODY, Session, build_body_zip, open_session
from massgen.config.model import AgentConfig, Config, ContextPath
from massgen.context.rules import Rules as ContextRules
from massgen.context.rules import rules_for
from massgen.coordination import direct, later, tidy
from massgen.coordination import record as records
from massgen.coordination.archive import Archive
from massgen.coordination.chair import Seat
from massgen.coordination.conclude import Conclusion, conclude
from massgen.coordination.opening import run_started
from massgen.coordination.orchestrator import Coordination
from massgen.coordination.patience import Patience, stop_on_signals
from massgen.coordination.peers import Peers
from massgen.coordination.prepared import prepared_image
from massgen.coordination.record import Record
from massgen.coordination.rooms import Rooms
from massgen.coordination.shown import Shown, decide, masked_mounts
from massgen.coordination.start import clean_start
from massgen.coordination.state import Rules
from massgen.coordination.target import Target
from massgen.coordination.verify import VERIFY_TIMEOUT_S, Verifier
from massgen.errors import MassgenError, SandboxFailed
from massgen.events.codec import Envelope
from massgen.events.log import EventLog, Reader
from massgen.events.types import ModelCalled, Notice, RunFinished
from massgen.messages import Message, Usage
from massgen.models.base import Model
from massgen.models.team import open_models
from sandbox import Engine, Sandbox, SandboxError, Store, cache_folder
from sandbox.base import Base
from sandbox.probe import require

apply_run = later.apply
"""`await apply_run(state_dir, run, engine=…)`: `massgen apply`."""
undo_run = later.undo
"""`await undo_run(state_dir, run, engine=…)`: `massgen undo`."""
diff_run = later.diff
"""`diff_run(state_dir, run)`: `massgen diff`."""
risks_run = later.risks
"""`risks_run(state_dir, run)`: what of it runs by itself."""
moved_run = later.moved
"""`moved_run(state_dir, run)`: what of it the user changed meanwhile."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What came of a run."""

    run_id: str
    run_dir: Path
    exit_code: int
    outcome: str
    """As in RunFinished."""
    message: str = ""
    """What went wrong or what to do next, for people."""
    answer: str = ""
    winner: str = ""
    """The configured id."""
    changes: tuple[str, ...] = ()
    """Paths that the result changes, whether written or not."""
    usage: Usage = field(default_factory=Usage)


async def run(
    config: Config,
    prompt: str,
    *,
    engine: Engine,
    readers: Sequence[Reader] = (),
    state_dir: Path,
    run_id: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> RunResult:
    """One run, from the question to the write. Ctrl-C and SIGTERM stop it with the best answer so far (130, 143).

    `say` hears what happens before there is a log: preparing the image, outside the run's own deadline.
    Raises, before anything was started: ConfigError, SandboxFailed.
    """
    began = time.monotonic()
    with _translated():
        await engine.image(config.sandbox.image)
        roots = [path.path for path in config.write_paths]
        found = await clean_start(state_dir, engine=engine, roots=roots, image=config.sandbox.image)
        context = await anyio.to_thread.run_sync(rules_for, _all_paths(config))
        if config.write == "direct":
            await anyio.to_thread.run_sync(direct.check, [path.path for path in config.write_paths])
        image = await prepared_image(config.sandbox, engine, os.environ, say=say)
        await require(engine, image, runtime=config.sandbox.runtime, required=config.sandbox.require)
        shown = await decide(_all_paths(config), context, draft=config.sandbox.draft, engine=engine, image=image)
    deadline = anyio.current_time() + config.timeouts.run_s
    folder = await anyio.to_thread.run_sync(lambda: tidy.new_run(state_dir, run_id=run_id))
    tally = _Tally()
    with EventLog(folder, folder.name, readers=[tally, *readers]) as log:
        parts = _Parts(
            config=config,
            prompt=prompt,
            engine=engine,
            image=image,
            context=context,
            shown=shown,
            folder=folder,
            state_dir=state_dir,
            log=log,
            ended=found.ended,
        )
        conclusion = Conclusion(outcome="stopped", exit_code=130, message="interrupted twice; what was going on was dropped")
        async with stop_on_signals() as stopped:
            conclusion = await _concluded(parts, Patience(deadline=deadline, stop=stopped.event))
        code = stopped.exit_code if conclusion.outcome == "stopped" else conclusion.exit_code
        records.save(folder, records.finished(records.load(folder), status=conclusion.outcome, exit_code=code))
        log.emit(
            RunFinished(
                exit_code=code,
                outcome=conclusion.outcome,
                message=conclusion.message,
                winner=conclusion.winner,
                seconds=round(time.monotonic() - began, 3),
            )
        )
    await anyio.to_thread.run_sync(tidy.release, folder)
    return RunResult(
        run_id=folder.name,
        run_dir=folder,
        exit_code=code,
        outcome=conclusion.outcome,
        message=conclusion.message,
        answer=conclusion.result.text if conclusion.result else "",
        winner=records.load(folder).winner_id(),
        changes=tuple(change.path for change in conclusion.result.patch.changes) if conclusion.result else (),
        usage=tally.usage,
    )


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a run is made from."""

    config: Config
    prompt: str
    engine: Engine
    image: str
    """What agents run in: the configured image, or the one prepared from it."""
    context: ContextRules
    shown: Mapping[Path, Shown]
    """By context path."""
    folder: Path
    state_dir: Path
    log: EventLog
    ended: tuple[str, ...]
    """A sentence on each write of an earlier run that was killed."""


async def _concluded(parts: _Parts, patience: Patience) -> Conclusion:
    """The run itself; expected failures become conclusions."""
    config, log = parts.config, parts.log
    labels = [f"agent{number}" for number in range(1, len(config.agents) + 1)]
    record = Record(
        run_id=parts.folder.name,
        started=datetime.now(UTC).isoformat(),
        prompt=parts.prompt,
        image=config.sandbox.image,
        write_mode=config.write,
        verify=config.verify,
        roots=tuple(str(path.path) for path in config.write_paths),
        protected=tuple(str(p) for path in config.write_paths for p in path.protected_paths),
        agents=tuple({"id": agent.id, "label": label} for agent, label in zip(config.agents, labels, strict=True)),
    )
    records.save(parts.folder, record)
    log.emit(run_started(config, parts.shown, parts.prompt, labels, parts.context))
    for sentence in parts.ended:
        log.emit(Notice(text=sentence, level="warning"))
    try:
        async with AsyncExitStack() as models:
            return await _work(parts, patience, record, dict(zip(labels, config.agents, strict=True)), models)
    except MassgenError as error:
        return Conclusion(outcome=_word(error), exit_code=error.exit_code, message=str(error))
    except SandboxError as error:
        return Conclusion(outcome="sandbox", exit_code=SandboxFailed.exit_code, message=str(error))
    except Exception as error:
        # Ours to mend, or the disk's: the run still ends in its log before the error goes on.
        with suppress(OSError):
            log.emit(RunFinished(exit_code=1, outcome="crashed", message=f"{type(error).__name__}: {error}"))
        raise


async def _work(
    parts: _Parts, patience: Patience, record: Record, agents: dict[str, AgentConfig], models: AsyncExitStack
) -> Conclusion:
    config, log, context = parts.config, parts.log, parts.context
    store = await anyio.to_thread.run_sync(Store, parts.state_dir / "store")
    target = Target(roots=tuple(map(Path, record.roots)), protected=tuple(map(Path, record.protected)))
    base = await anyio.to_thread.run_sync(Base.take, target.roots, store)
    peers = Peers(parts.folder / tidy.PEERS, store)
    archive = Archive(store=store, base=base, peers=peers)
    body = await anyio.to_thread.run_sync(build_body_zip, cache_folder())
    mounts = await models.enter_async_context(masked_mounts(parts.shown.values(), parts.engine, parts.image, log.emit))
    rooms = Rooms(
        run_id=record.run_id,
        engine=parts.engine,
        emit=log.emit,
        image=parts.image,
        limits=config.sandbox.limits,
        runtime=config.sandbox.runtime,
        mounts=tuple(mounts[path.path] for path in config.context_paths),
        peers=peers.folder,
        tools={BODY: body},
        cwd=_cwd(config),
        read_only=config.coordination.mode == "read_only",
    )
    circuits = Circuits()
    opened = metered(await open_models(config.agents, models), config, patience.spent.set)
    seats = {
        label: Seat(
            label=label,
            own=tuple(mounts[path.path] for path in agent.context_paths),
            needs_verdicts=agent.strategy == "repair",
            open_session=partial(
                _session,
                config=config,
                agent=agent,
                label=label,
                model=opened[agent.id],
                log=log,
                cwd=rooms.cwd,
                deadline=patience.deadline,
                circuit=circuits.of(agent),
            ),
        )
        for label, agent in agents.items()
    }
    verifier = None
    if config.verify:
        verifier = Verifier(
            command=config.verify,
            cwd=rooms.cwd,
            store=store,
            protected=target.protected_names,
            open_box=lambda agent: rooms.open("verify", agent),
            timeout_s=max(VERIFY_TIMEOUT_S, config.sandbox.limits.command_timeout_s),
        )
    coordination = Coordination(
        task=parts.prompt,
        seats=tuple(seats.values()),
        rooms=rooms,
        archive=archive,
        log=log,
        rules=Rules(
            verify=bool(config.verify),
            max_new_answers_per_agent=config.coordination.max_new_answers_per_agent,
            max_new_answers_global=config.coordination.max_new_answers_global,
            consensus=config.coordination.consensus,
            max_debates=config.coordination.max_debates,
        ),
        novelty=config.coordination.answer_novelty,
        verifier=verifier,
        context=context,
        look_timeout_s=config.timeouts.agent_s,
    )
    decided = await coordination.run(patience)
    return await conclude(
        decided,
        task=parts.prompt,
        seats=seats,
        rooms=rooms,
        archive=archive,
        log=log,
        context=context,
        patience=patience,
        verifier=verifier,
        target=target,
        write_mode=config.write,
        allowed=config.allow,
        save=lambda change: records.save(parts.folder, change(records.load(parts.folder))),
    )


# -- pieces -----------------------------------------------------------------------------------------------------


def _session(
    box: Sandbox,
    transcript: tuple[Message, ...],
    *,
    config: Config,
    agent: AgentConfig,
    label: str,
    model: Model,
    log: EventLog,
    cwd: str,
    deadline: float,
    circuit: Circuit,
) -> AbstractAsyncContextManager[Session]:
    return open_session(
        label=label,
        model=model,
        sandbox=box,
        emit=lambda event: _ignore(log.emit(event)),
        system_message=agent.system_message,
        strategy=agent.strategy,
        cwd=cwd,
        verify=config.verify,
        transcript=transcript,
        temperature=agent.backend.temperature,
        max_tokens=agent.backend.max_tokens,
        command_timeout_s=config.sandbox.limits.command_timeout_s,
        deadline=deadline,
        circuit=circuit,
    )


def _cwd(config: Config) -> str:
    """The first write path, else the first context path, else `/workspace`; of a file its folder."""
    for path in (*config.write_paths, *config.context_paths):
        return str(path.path if path.path.is_dir() else path.path.parent)
    return "/workspace"


def _all_paths(config: Config) -> list[ContextPath]:
    return [*config.context_paths, *(path for agent in config.agents for path in agent.context_paths)]


def _word(error: MassgenError) -> str:
    return {2: "config", 3: "no answer", 5: "conflict", 124: "timeout", 125: "sandbox", 130: "stopped"}.get(
        error.exit_code, "failed"
    )


def _ignore(_envelope: Envelope) -> None:
    """Sessions report; where it lands in the log is no business of theirs."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SandboxError as error:
        raise SandboxFailed(str(error)) from error


class _Tally:
    """A reader that adds up tokens."""

    def __init__(self) -> None:
        self.usage = Usage()

    def __call__(self, envelope: Envelope) -> None:
        if isinstance(envelope.event, ModelCalled):
            self.usage += envelope.event.usage
