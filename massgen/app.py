"""How a run begins and ends: a config and a question become a run with a log, a result, and at most one write.

    remove what dead runs left, end what they were writing · walk the context paths → `coordination/assembly.py`: models, a seat
    per agent, coordination, final turn, verify, write as the mode says → run.json → RunFinished

Whatever is expected to go wrong ends in a readable run: the error becomes the exit code and message of the
terminal event and of the returned `RunResult`. Only what is wrong before a run exists (config, engine, image) is
raised. Errors of `sandbox` are translated here, in `coordination/prepared.py` and `later.py`, nowhere else.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import anyio.to_thread

from massgen.config.model import Config
from massgen.config.resolved import resolved_yaml
from massgen.coordination import begin, later, tidy
from massgen.coordination import record as records
from massgen.coordination import resume as resuming
from massgen.coordination.assembly import Parts, worked
from massgen.coordination.conclude import Conclusion, word_for
from massgen.coordination.opening import our_version, run_started
from massgen.coordination.patience import Patience, stop_on_signals
from massgen.coordination.prepared import ready
from massgen.coordination.relive import Tally, read_past, relive
from massgen.coordination.state import start
from massgen.errors import ConfigError, MassgenError, SandboxFailed
from massgen.events.codec import Envelope
from massgen.events.log import EventLog, Reader, reopen
from massgen.events.replay import GOES_ON
from massgen.events.types import Notice, RunFinished
from massgen.messages import Usage
from sandbox import Engine, SandboxError, Store, scratch

NO_INVOCATION: Mapping[str, Any] = MappingProxyType({})
"""Of a run that was begun from Python."""

apply_run = later.apply
"""`await apply_run(state_dir, run, engine=…)`: `massgen apply`."""
undo_run = later.undo
"""`await undo_run(state_dir, run, engine=…)`: `massgen undo`."""
diff_run = later.diff
"""`diff_run(state_dir, run)`: `massgen diff`."""
risks_run = later.risks
"""`risks_run(state_dir, run)`: what of it runs by itself."""


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
    invocation: Mapping[str, Any] = NO_INVOCATION,
) -> RunResult:
    """One run, from the question to the write. Ctrl-C and SIGTERM stop it with the best answer so far (130, 143).

    `say` hears what happens before there is a log: preparing the image, outside the run's own deadline. `invocation`: how the
    command line began it, so that it can load the config again to resume. No secret in it.
    Raises, before anything was started: ConfigError, SandboxFailed; later, with the run left to be resumed: SandboxFailed.
    """
    found = await ready(config, engine, state_dir, say)
    with _recorded(state_dir):
        folder = await anyio.to_thread.run_sync(lambda: tidy.new_run(state_dir, run_id=run_id))
    tally = Tally()
    with _release(folder), ExitStack() as opened:
        with _recorded(state_dir):
            started = datetime.now(UTC).isoformat()
            record = begin.record(config, run_id=folder.name, started=started, prompt=prompt, invocation=dict(invocation))
            records.save(folder, record)
            scratch.write(folder / resuming.CONFIG, resolved_yaml(config).encode("utf-8"))
            log = opened.enter_context(EventLog(folder, folder.name, readers=[tally, *readers]))
        waiting = await anyio.to_thread.run_sync(resuming.waiting, state_dir, found.clean.killed)
        parts = Parts(
            config=config,
            record=record,
            engine=engine,
            ready=found,
            folder=folder,
            state_dir=state_dir,
            log=log,
            notices=(*_warnings(found.clean.ended), *waiting),
        )
        return await _lived(parts, tally, config.timeouts.run_s)


async def resume(
    config: Config,
    run: str,
    *,
    engine: Engine,
    readers: Sequence[Reader] = (),
    earlier: Callable[[Sequence[Envelope]], None] = lambda _past: None,
    state_dir: Path,
    timeout_s: float | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> RunResult:
    """Go on with a run that died: from its log and its snapshots, to the same end. Signals: as in `run`.

    `run`: a unique prefix; empty: the last one that can be resumed. `earlier` is given what happened until then, before anything
    new happens; `readers` see the new events only. `timeout_s`: from now on; None: what is left of the config's.
    Raises ConfigError: it cannot be resumed, or not with this config; and as `run`.
    """
    folder, _ = await anyio.to_thread.run_sync(resuming.find, state_dir, run)
    found = await ready(config, engine, state_dir, say)
    with resuming.taken_over(folder) as record:
        tally = Tally()
        log, past = await anyio.to_thread.run_sync(lambda: reopen(folder, folder.name, readers=[tally, *readers]))
        with log:
            changes = resuming.config_changes((folder / resuming.CONFIG).read_text(encoding="utf-8"), resolved_yaml(config))
            known = read_past(past)
            resuming.check(record, known, relive(start(begin.labels(config), begin.rules(config)), known))
            known, applied = resuming.settled(record, known, Store(state_dir / "store"))
            for envelope in past:
                tally(envelope)
            earlier(past)
            parts = Parts(
                config=config,
                record=record,
                engine=engine,
                ready=found,
                folder=folder,
                state_dir=state_dir,
                log=log,
                past=known,
                notices=(*_warnings(found.clean.ended), *resuming.told_config(changes)),
            )
            if past:
                for event in resuming.opening(known, events=len(past), version=our_version()):
                    log.emit(event)
            if applied:
                log.emit(applied)
            return await _lived(parts, tally, config.timeouts.run_s - known.active_s if timeout_s is None else timeout_s)


@contextmanager
def _recorded(state_dir: Path) -> Iterator[None]:
    """A run that nobody can remember does not begin. Raises SandboxFailed: where, why, what next."""
    try:
        yield
    except OSError as error:
        raise SandboxFailed(
            f"runs cannot be recorded in {state_dir} ({error.strerror or error}); make room there, make it writable, "
            "or set XDG_STATE_HOME to another folder"
        ) from error


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """A disk that fills up ends no run: it waits. Raises SandboxFailed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SandboxFailed(f"the disk is full ({error}); make room, then: massgen resume {folder.name}") from error


@contextmanager
def _release(folder: Path) -> Iterator[None]:
    """However it ends, the run is nobody's any more: what crashed can be resumed, by this process too."""
    try:
        yield
    finally:
        tidy.release(folder)


async def _lived(parts: Parts, tally: Tally, left_s: float) -> RunResult:
    """From here to the terminal event."""
    began = time.monotonic()
    folder, log = parts.folder, parts.log
    conclusion = Conclusion(outcome="stopped", exit_code=130, message="interrupted twice; what was going on was dropped")
    async with stop_on_signals() as stopped:
        conclusion = await _concluded(parts, Patience(deadline=anyio.current_time() + left_s, stop=stopped.event))
    code = stopped.exit_code if conclusion.outcome == "stopped" else conclusion.exit_code
    message = conclusion.message
    if conclusion.outcome == "stopped" and records.load(folder).written:
        message = f"interrupted, and the change is in your project: massgen undo {folder.name}"
    if conclusion.outcome in GOES_ON and tally.worked:
        message = f"{message}; when that is mended: massgen resume {folder.name}"
    seconds = round(parts.past.active_s + time.monotonic() - began, 3)
    with _room(folder):
        records.save(folder, records.finished(records.load(folder), status=conclusion.outcome, exit_code=code))
        log.emit(
            RunFinished(exit_code=code, outcome=conclusion.outcome, message=message, winner=conclusion.winner, seconds=seconds)
        )
    return RunResult(
        run_id=folder.name,
        run_dir=folder,
        exit_code=code,
        outcome=conclusion.outcome,
        message=message,
        answer=conclusion.result.text if conclusion.result else "",
        winner=records.load(folder).winner_id(),
        changes=tuple(change.path for change in conclusion.result.patch.changes) if conclusion.result else (),
        usage=tally.usage,
    )


async def _concluded(parts: Parts, patience: Patience) -> Conclusion:
    """The run itself; expected failures become conclusions."""
    config, log = parts.config, parts.log
    try:
        if parts.past.started is None:
            log.emit(run_started(config, parts.ready.shown, parts.record.prompt, begin.labels(config), parts.ready.context))
        for notice in parts.notices:
            log.emit(notice)
        async with AsyncExitStack() as models:
            return await worked(parts, patience, models)
    except MassgenError as error:
        if isinstance(error, ConfigError) and parts.past.started:
            raise  # a key that is missing today is no end of a run
        return Conclusion(outcome=word_for(error), exit_code=error.exit_code, message=str(error))
    except SandboxError as error:
        return Conclusion(outcome="sandbox", exit_code=SandboxFailed.exit_code, message=str(error))
    except Exception as error:
        # Ours to mend, or the disk's: the run still ends in its log before the error goes on.
        with suppress(OSError):
            log.emit(RunFinished(exit_code=1, outcome="crashed", message=f"{type(error).__name__}: {error}"))
        with _room(parts.folder):
            raise


def _warnings(texts: Sequence[str]) -> tuple[Notice, ...]:
    return tuple(Notice(text=text, level="warning") for text in texts)
