"""Coordination with its hands: a container and a session per agent, driven by the pure state machine.

Everything that happens is told as a fact: written to the log first, then given to `advance`, whose actions are
done here. At an answer the order is fixed: the snapshot is taken with the agent's processes stopped and stored;
the peers' folder is built out of sight; then, without a pause in between, AnswerGiven is logged (votes clear
there), the folder appears, and the others are told; the verify command comes last. So no agent is ever told of
an answer that is not on disk and in `/peers`.

When it is decided everything is cancelled and waited for: on return no container of coordination exists.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import anyio
import anyio.abc
import anyio.to_thread

from massgen.agent.view import Answered, Failed, Presented, Session, ShownAnswer, View, Voted
from massgen.context.rules import Rules as ContextRules
from massgen.coordination.archive import Answer, Archive
from massgen.coordination.patience import Patience, ungrouped
from massgen.coordination.rooms import Rooms
from massgen.coordination.state import (
    Action,
    Exclude,
    Finish,
    Notify,
    Rules,
    Select,
    StartLook,
    StartVerify,
    advance,
    may_answer,
    next_answer,
    owner,
    start,
)
from massgen.coordination.verify import Verifier
from massgen.events.log import EventLog
from massgen.events.types import (
    AgentExcluded,
    AgentReady,
    AnswerGiven,
    Fact,
    LookFailed,
    LookStarted,
    Notice,
    Selected,
    TimeUp,
    UserStop,
    VoteCast,
)
from massgen.messages import Message
from sandbox import Change, EngineError, GuestError, Mount, Sandbox, SandboxError, Snapshot, SnapshotError, SpecError, Store


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A configured agent, ready to be given a container."""

    label: str
    """Anonymous and stable: `agent1`, …"""
    open_session: Callable[[Sandbox, tuple[Message, ...]], AbstractAsyncContextManager[Session]]
    """Its session in a container, going on from a transcript."""
    own: tuple[Mount, ...] = ()
    """Read paths that it alone sees."""
    needs_verdicts: bool = False
    """It judges by test results: it looks at answers when each has been verified, not before."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """How coordination ended."""

    end: Select | Finish
    cut: TimeUp | UserStop | None
    """What cut it short, if anything did."""
    votes: tuple[tuple[str, str], ...] = ()
    """(voter, reason) of the votes for the winner."""
    answers: tuple[str, ...] = ()
    """The latest answers."""
    transcript: tuple[Message, ...] = ()
    """The winner's."""


class Coordination:
    """One coordination, run once.

    Raises (from `run`): SandboxError when no agent's container could be started and so nobody answered.
    """

    def __init__(
        self,
        *,
        task: str,
        seats: Sequence[Seat],
        rooms: Rooms,
        archive: Archive,
        log: EventLog,
        rules: Rules,
        verifier: Verifier | None = None,
        context: ContextRules,
        look_timeout_s: float | None = None,
    ) -> None:
        self.state = start([seat.label for seat in seats], rules)
        self._task = task
        self._chairs = {seat.label: _Chair(seat) for seat in seats}
        self._rooms = rooms
        self._archive = archive
        self._log = log
        self._verifier = verifier
        self._context = context
        self._look_timeout_s = look_timeout_s
        self._reasons: dict[str, str] = {}
        self._start_error: SandboxError | None = None
        self._ever_ready = False
        self._end: Select | Finish | None = None
        self._cut: TimeUp | UserStop | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._verdict = anyio.Event()

    async def run(self, patience: Patience) -> Decided:
        """Until it is decided, or patience runs out."""
        with ungrouped():
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._watch_clock, patience.deadline)
                tasks.start_soon(self._watch_user, patience.stop)
                if self._verifier:
                    tasks.start_soon(self._verify, "base", Snapshot(entries=()))
                for chair in self._chairs.values():
                    tasks.start_soon(self._attend, chair)
        if self._end is None:
            raise RuntimeError("coordination was left without an end")
        if isinstance(self._end, Finish):
            if self._start_error and not self._ever_ready and not self._cut:
                raise self._start_error
            return Decided(end=self._end, cut=self._cut)
        winner = self._end.agent
        return Decided(
            end=self._end,
            cut=self._cut,
            votes=tuple((m.label, self._reasons.get(m.label, "")) for m in self.state.members if m.vote == winner),
            answers=self.state.latest,
            transcript=self._chairs[winner].transcript,
        )

    # -- facts and actions

    def _tell(self, fact: Fact, *, then: Callable[[], None] | None = None) -> None:
        """Log, advance, do `then`, act. After the end nothing is told: the log stays what replay needs."""
        if self._end is not None:
            return
        self._log.emit(fact)
        self.state, actions = advance(self.state, fact)
        if then:
            then()
        for action in actions:
            self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case StartLook():
                self._chairs[action.agent].wake.set()
            case Notify():
                chair = self._chairs[action.agent]
                if not chair.seat.needs_verdicts:  # else its vote will be stale, and it looks again with the verdict
                    chair.notify(self._archive.shown(action.answers, action.agent))
            case StartVerify():
                if self._tasks:
                    self._tasks.start_soon(self._verify, action.answer, self._archive.get(action.answer).snapshot)
            case Exclude():
                chair = self._chairs[action.agent]
                chair.leaving = action.why or "failed"
                chair.wake.set()
            case Select():
                self._log.emit(Selected(agent=action.agent, answer=action.answer, votes=dict(action.votes), why=action.why))
                self._finish(action)
            case Finish():
                self._finish(action)

    def _finish(self, end: Select | Finish) -> None:
        self._end = end
        if self._tasks:
            self._tasks.cancel_scope.cancel()

    # -- one agent

    async def _attend(self, chair: _Chair) -> None:
        label = chair.seat.label
        try:
            async with (
                self._rooms.open("agent", label, own=chair.seat.own) as box,
                chair.seat.open_session(box, ()) as session,
            ):
                chair.session = session
                self._ever_ready = True
                self._tell(AgentReady(agent=label))
                while not chair.leaving:
                    await chair.wake.wait()
                    chair.wake = anyio.Event()
                    if not chair.leaving:
                        await self._look(chair, box, session)
        except SandboxError as error:
            if isinstance(error, EngineError | SpecError) and self._start_error is None:
                self._start_error = error
            self._tell(LookFailed(agent=label, why=str(error), fatal=True))
        if chair.leaving:
            self._tell(AgentExcluded(agent=label, why=chair.leaving))

    async def _look(self, chair: _Chair, box: Sandbox, session: Session) -> None:
        # The set of now, not that of the action: an answer may have come between the two.
        label = chair.seat.label
        while self._verifier and chair.seat.needs_verdicts and not self._archive.judged(self.state.latest):
            await self._verdict.wait()
        latest = self.state.latest
        shown = self._archive.shown(latest, label)
        view = View(
            phase="coordination",
            task=self._task,
            answers=shown,
            own=next((answer.id for answer in shown if answer.own), None),
            latest=self._newest,
            may_answer=may_answer(self.state, label),
            paths=self._rooms.places(chair.seat.own),
        )
        self._log.emit(LookStarted(agent=label, answers=latest))
        decision: Answered | Voted | Presented | Failed = Failed(why=f"did not decide within {self._look_timeout_s} s")
        with anyio.move_on_after(self._look_timeout_s):
            decision = await session.look(view)
        match decision:
            case Answered():
                await self._answer(chair, box, decision.text)
            case Voted():
                self._vote(label, decision)
            case Failed():
                self._tell(LookFailed(agent=label, why=decision.why, fatal=decision.fatal))
            case Presented():
                self._tell(LookFailed(agent=label, why="presented where an answer or a vote was asked for"))

    async def _answer(self, chair: _Chair, box: Sandbox, text: str) -> None:
        label = chair.seat.label
        try:
            snapshot = await take_snapshot(box, self._archive.store, self._context)
        except (SnapshotError, GuestError) as error:
            # Too much, or unreadable: the agent's to clean up, so it may try again.
            self._tell(LookFailed(agent=label, why=str(error)))
            return
        if snapshot.left_out:
            names = ", ".join(snapshot.left_out[:10])
            self._log.emit(Notice(agent=label, text=f"left out of the answer, as withheld names never leave: {names}"))
        # Only this agent's own answers move its version, so the id still holds after the wait.
        answer = await anyio.to_thread.run_sync(self._archive.prepare, next_answer(self.state, label), text, snapshot)
        if not may_answer(self.state, label):
            self._log.emit(
                Notice(agent=label, text="its answer came after the cap on answers was reached; it looks again to vote")
            )
            chair.wake.set()
            return
        self._tell(_given(label, answer), then=lambda: self._archive.publish(answer))

    def _vote(self, label: str, vote: Voted) -> None:
        self._reasons[label] = vote.reason
        self._tell(VoteCast(agent=label, for_agent=vote.label, reason=vote.reason, seen=vote.seen))

    @property
    def _newest(self) -> str | None:
        newest = self._archive.newest
        return owner(newest) if newest else None

    # -- beside the agents

    async def _verify(self, answer: str, snapshot: Snapshot) -> None:
        if self._verifier is None:
            return
        verdict = await self._verifier.check(answer, snapshot, agent="" if answer == "base" else owner(answer))
        self._tell(verdict, then=lambda: self._archive.add_verdict(verdict))
        self._verdict.set()
        self._verdict = anyio.Event()

    async def _watch_clock(self, deadline: float) -> None:
        await anyio.sleep_until(deadline)
        self._cut_short(TimeUp())

    async def _watch_user(self, stop: anyio.Event) -> None:
        await stop.wait()
        self._cut_short(UserStop())

    def _cut_short(self, why: TimeUp | UserStop) -> None:
        if self._end is None:
            self._cut = why
            self._tell(why)


async def take_snapshot(box: Sandbox, store: Store, context: ContextRules) -> Snapshot:
    """What an agent changed, less what the context rules leave out; `left_out` names what it may miss."""
    left_out: list[str] = []

    def keep(changes: Sequence[Change]) -> Collection[int]:
        judged = context.judge(changes)
        left_out.extend(judged.left_out)
        return judged.keep

    snapshot = await box.snapshot(store, keep=keep)
    return Snapshot(entries=snapshot.entries, left_out=(*snapshot.left_out, *left_out))


class _Chair:
    """What changes about one agent while it takes part."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.session: Session | None = None
        self.wake = anyio.Event()
        self.leaving = ""
        """Why it is to be excluded; empty: it is not."""

    def notify(self, answers: tuple[ShownAnswer, ...]) -> None:
        if self.session:
            self.session.notify(answers)

    @property
    def transcript(self) -> tuple[Message, ...]:
        return self.session.transcript if self.session else ()


def _given(label: str, answer: Answer) -> AnswerGiven:
    return AnswerGiven(
        agent=label,
        answer=answer.id,
        text=answer.text,
        snapshot=answer.snapshot.id,
        files=len(answer.patch.changes),
        added=answer.patch.added,
        removed=answer.patch.removed,
    )
