"""A run put together as `app.py` does it, over the fake engine, with agents that are functions of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from massgen.agent.view import Answered, Decision, Failed, HandIn, Presented, ShownAnswer, View, Voted
from massgen.config.model import ContextPath, Novelty
from massgen.context.rules import rules_for
from massgen.coordination import begin, resume
from massgen.coordination import record as records
from massgen.coordination.chair import Seat
from massgen.coordination.conclude import Conclusion, WriteMode, conclude
from massgen.coordination.decided import Decided
from massgen.coordination.orchestrator import Coordination
from massgen.coordination.patience import Patience
from massgen.coordination.record import Record
from massgen.coordination.recovery import recover
from massgen.coordination.relive import NOTHING, Past, read_past, relive
from massgen.coordination.rooms import Rooms
from massgen.coordination.state import Rules, State, start
from massgen.coordination.target import Target
from massgen.coordination.verify import Verifier
from massgen.events.codec import Envelope
from massgen.events.log import EventLog, reopen
from massgen.events.replay import read
from massgen.events.types import Event, RunStarted
from massgen.messages import Message
from sandbox import Mount, Sandbox, Store
from sandbox.testing import FakeEngine

SLOW_S = 60.0
"""No test waits this long: it only bounds one that hangs."""


class Turn:
    """What a scripted agent can do in one look."""

    def __init__(self, session: Script, view: View) -> None:
        self.session = session
        self.view = view
        self.number = session.looks

    async def write(self, path: str, content: str) -> None:
        outcome = await self.session.box.run(
            ["sh", "-c", 'mkdir -p "$(dirname "$0")" && cat > "$0"', path], stdin=content.encode()
        )
        assert outcome.ok, outcome

    async def shell(self, command: str) -> None:
        outcome = await self.session.box.run(["sh", "-c", command])
        assert outcome.ok, outcome

    def vote(self, label: str) -> Voted:
        return Voted(label=label, reason=f"{label} is right", seen=self.session.seen)


Play = Callable[[Turn], Awaitable[Decision]]


class Script:
    """A session that follows a function."""

    def __init__(self, box: Sandbox, play: Play, transcript: tuple[Message, ...]) -> None:
        self.box = box
        self.play = play
        self.transcript = transcript
        self.looks = 0
        self.seen: tuple[str, ...] = ()
        self.told = anyio.Event()
        self.behind = False
        self.interrupted = anyio.Event()

    async def look(self, view: View, *, hand_in: HandIn | None = None) -> Decision:
        self.looks += 1
        self.seen = tuple(a.id for a in view.answers)
        self.transcript = (*self.transcript, Message(role="user", text=f"{view.phase} {self.looks}"))
        decision = await self.play(Turn(self, view))
        wrong = await hand_in(decision.text) if isinstance(decision, Answered) and hand_in else ""
        return Failed(why=wrong) if wrong else decision

    def notify(self, answers: tuple[ShownAnswer, ...]) -> None:
        self.seen = tuple(a.id for a in answers)
        self.told.set()

    async def interrupt(self, why: str) -> None:
        self.interrupted.set()


@dataclass
class Run:
    """One run under test, put together as `app.py` does it, with scripted sessions."""

    folder: Path
    engine: FakeEngine
    project: Path
    plays: Mapping[str, Play]
    write_mode: WriteMode = "apply"
    verify: str = ""
    protected: tuple[Path, ...] = ()
    rules: Rules = field(default_factory=Rules)
    needs_verdicts: bool = False
    novelty: Novelty = "lenient"
    news_within_s: float = SLOW_S
    read_only: bool = False
    look_timeout_s: float | None = None
    on_event: Callable[[Event], object] = lambda _: None
    on_envelope: Callable[[Envelope], object] = lambda _: None
    decided: Decided | None = None
    live: State | None = None

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def events(self) -> list[Event]:
        return [envelope.event for envelope in read(self.run_dir / "events.jsonl")]

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]

    async def go(
        self, *, stop: anyio.Event | None = None, spent: anyio.Event | None = None, deadline_s: float = SLOW_S
    ) -> Conclusion:
        with anyio.fail_after(SLOW_S):
            deadline = anyio.current_time() + deadline_s
            return await self._go(Patience(deadline=deadline, stop=stop or anyio.Event(), spent=spent))

    async def _go(self, patience: Patience) -> Conclusion:
        self.run_dir = records.new_run(self.state_dir)
        record = Record(
            run_id=self.run_dir.name,
            started="2026",
            prompt="fix it",
            image="fake",
            write_mode=self.write_mode,
            verify=self.verify,
            roots=(str(self.project),),
            protected=tuple(map(str, self.protected)),
            agents=tuple({"id": f"id-{label}", "label": label} for label in self.plays),
        )
        records.save(self.run_dir, record)
        (self.run_dir / resume.CONFIG).write_text("")
        with EventLog(self.run_dir, self.run_dir.name, readers=[self._reader]) as log:
            return await self._work(patience, record, log, NOTHING)

    async def resume(self) -> Conclusion:
        """Go on with what is in `run_dir`, as `app.resume` does."""
        await recover(self.state_dir, engine=self.engine, roots=[self.project])
        with anyio.fail_after(SLOW_S), resume.taken_over(self.run_dir) as record:
            log, envelopes = reopen(self.run_dir, self.run_dir.name, readers=[self._reader])
            past, applied = resume.settled(record, read_past(envelopes), Store(self.state_dir / "store"))
            with log:
                for event in resume.opening(past, events=len(envelopes), version="") if envelopes else ():
                    log.emit(event)
                if applied:
                    log.emit(applied)
                patience = Patience(deadline=anyio.current_time() + SLOW_S, stop=anyio.Event())
                return await self._work(patience, record, log, past)

    def _reader(self, envelope: Envelope) -> None:
        self.on_event(envelope.event)
        self.on_envelope(envelope)

    async def _work(self, patience: Patience, record: Record, log: EventLog, past: Past) -> Conclusion:
        store = Store(self.state_dir / "store")
        archive, notices = begin.archive(record, past, self.run_dir, store)
        context = rules_for([ContextPath(path=self.project, permission="write")])
        self.peers = archive.peers
        target = Target(roots=(self.project,), protected=self.protected)
        rules = replace(self.rules, verify=bool(self.verify))
        if past.started is None:
            agents = tuple({"id": f"id-{label}", "label": label} for label in self.plays)
            log.emit(RunStarted(prompt="fix it", agents=agents, write_mode=self.write_mode, context=(), image="fake"))
        for notice in notices:
            log.emit(notice)
        rooms = Rooms(
            run_id=self.run_dir.name,
            engine=self.engine,
            emit=log.emit,
            image="fake",
            mounts=(Mount(source=self.project, mode="draft", withhold=context.withhold(self.project)),),
            peers=archive.peers,
            cwd=str(self.project),
            read_only=self.read_only,
        )
        verifier = None
        if self.verify:
            verifier = Verifier(
                command=self.verify,
                cwd=rooms.cwd,
                store=store,
                protected=target.protected_names,
                open_box=lambda agent: rooms.open("verify", agent),
            )
        seats = {
            label: Seat(label=label, open_session=_opens(play), needs_verdicts=self.needs_verdicts)
            for label, play in self.plays.items()
        }
        coordination = Coordination(
            task="fix it",
            seats=tuple(seats.values()),
            rooms=rooms,
            archive=archive,
            log=log,
            rules=rules,
            verifier=verifier,
            context=context,
            novelty=self.novelty,
            look_timeout_s=self.look_timeout_s,
            retry_s=0.0,
            news_within_s=self.news_within_s,
            past=relive(start(list(self.plays), rules), past) if past.started else None,
        )
        self.decided = await coordination.run(patience)
        self.live = coordination.state
        return await conclude(
            self.decided,
            task="fix it",
            seats=seats,
            rooms=rooms,
            archive=archive,
            log=log,
            context=context,
            patience=patience,
            verifier=verifier,
            target=target,
            write_mode=self.write_mode,
            past=past,
            save=lambda change: records.save(self.run_dir, change(records.load(self.run_dir))),
        )


def _opens(play: Play) -> Callable[[Sandbox, tuple[Message, ...]], object]:
    @asynccontextmanager
    async def open_session(box: Sandbox, transcript: tuple[Message, ...]) -> AsyncIterator[Script]:
        yield Script(box, play, transcript)

    return open_session


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def alone(code: str = "fixed\n", *, said: str = "done") -> Play:
    """One agent that writes code.txt, answers, and presents."""

    async def play(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            return Presented(text=said)
        await turn.write("code.txt", code)
        return Answered(text="an answer")

    return play


def make_project(folder: Path) -> Path:
    """A project with a bug, a test and a secret."""
    project = folder / "project"
    (project / "tests").mkdir(parents=True)
    (project / "code.txt").write_text("broken\n")
    (project / "tests" / "test_code.py").write_text("assert True\n")
    (project / ".env").write_text("SECRET=1\n")
    return project
