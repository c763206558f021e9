"""Coordination with its hands: a container and a session per agent, driven by the pure state machine.

Everything that happens is told as a fact: written to the log first, then given to `advance`, whose actions are
done here. At an answer the order is fixed: the snapshot is taken with the agent's processes stopped and stored;
the peers' folder is built out of sight; then, without a pause in between, AnswerGiven is logged (votes clear
there), the folder appears, and the others are told; the verify command comes last. So no agent is ever told of
an answer that is not on disk and in `/peers`.

An agent whose container is lost gets another with the files of its last answer; a look that failed is tried again
after a pause. An engine that is gone is nobody's failure: it ends the run, which can be resumed. When it is decided everything
is cancelled and waited for: on return no container of coordination exists.

A run that died goes on from `past`: who had voted gets no container before there is something to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import anyio.abc

from massgen.agent import prompts
from massgen.agent.view import Answered, Failed, Presented, Session, ShownVote, View, Voted
from massgen.config.model import Novelty
from massgen.context.rules import Rules as ContextRules
from massgen.coordination.actions import (
    Action,
    Debate,
    Exclude,
    Finish,
    Interrupt,
    Notify,
    Select,
    StartLook,
    StartVerify,
)
from massgen.coordination.archive import Archive
from massgen.coordination.chair import REOPENINGS, Chair, Seat
from massgen.coordination.decided import Decided, say_debate, say_selected
from massgen.coordination.handin import HandingIn, given
from massgen.coordination.patience import Patience
from massgen.coordination.relive import Cut, Relived
from massgen.coordination.rooms import NOT_THE_AGENTS, Rooms, still_there
from massgen.coordination.state import Member, Rules, advance, may_answer, next_answer, owner, start
from massgen.coordination.verify import Verifier
from massgen.events.log import EventLog
from massgen.events.types import (
    AgentExcluded,
    AgentReady,
    BudgetOut,
    Fact,
    LookFailed,
    LookStarted,
    Notice,
    TimeUp,
    UserStop,
    VoteCast,
)
from sandbox import EngineError, Sandbox, SandboxError, Snapshot, SpecError, StoreError
from sandbox.waiting import unwrapped

NEWS_WITHIN_S = 60.0
"""How long a command may keep an agent from hearing of a new answer; then it is stopped, its output so far is kept."""

RETRY_S = 1.0
"""Pause after a failed look; doubled with each in a row."""


class Coordination:
    """One coordination, run once.

    Raises (from `run`): SandboxError when no agent's container could be started and so nobody answered, or the engine died.
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
        novelty: Novelty = "lenient",
        retry_s: float = RETRY_S,
        news_within_s: float = NEWS_WITHIN_S,
        past: Relived | None = None,
    ) -> None:
        self.state = past.state if past else start([seat.label for seat in seats], rules)
        self._task = task
        self._chairs = {seat.label: Chair(seat) for seat in seats}
        self._rooms = rooms
        self._archive = archive
        self._log = log
        self._verifier = verifier
        self._context = context
        self._look_timeout_s = look_timeout_s
        self._novelty = novelty
        self._retry_s = retry_s
        self._news_within_s = news_within_s
        self._reasons = dict(past.reasons) if past else {}
        self._start_error: SandboxError | None = None
        self._ever_ready = any(m.status != "starting" for m in self.state.members)
        self._end = past.end if past else None
        self._cut = past.cut if past else None
        self._past = past
        self._tasks: anyio.abc.TaskGroup | None = None
        self._verdict = anyio.Event()

    async def run(self, patience: Patience) -> Decided:
        """Until it is decided, or patience runs out."""
        if self._past:
            self._take_up(self._past)
        if self._end is None:
            await self._until_decided(patience)
        if self._end is None:
            raise RuntimeError("coordination was left without an end")
        if isinstance(self._end, Finish):
            if self._start_error and not self._ever_ready and not self._cut:
                raise self._start_error
            reasons = tuple(dict.fromkeys(chair.leaving for chair in self._chairs.values() if chair.leaving))
            return Decided(end=self._end, cut=self._cut, reasons=reasons)
        winner = self._end.agent
        return Decided(
            end=self._end,
            cut=self._cut,
            votes=tuple(self._shown_vote(m.label, m.vote) for m in self.state.members if m.vote),
            answers=self.state.latest,
            transcript=self._chairs[winner].transcript,
        )

    async def _until_decided(self, patience: Patience) -> None:
        with unwrapped(first=True):
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._watch, patience)
                if self._verifier:
                    if not self._archive.verdict("base"):
                        tasks.start_soon(self._verify, "base", Snapshot(entries=()))
                    for answer in self.state.latest:
                        if not self._archive.verdict(answer):
                            tasks.start_soon(self._verify, answer, self._archive.get(answer).snapshot)
                for member in self.state.members:
                    if member.live:
                        tasks.start_soon(self._attend, self._chairs[member.label])

    def _take_up(self, past: Relived) -> None:
        """Where the run stood when it died: what had been decided is said, who was looking looks again."""
        if isinstance(past.end, Select) and not past.selected:
            say_selected(self._log, past.end)
        for debate in past.unsaid:
            say_debate(self._log, debate)
        for label, chair in self._chairs.items():
            status = self._member(label).status
            if status in ("looking", "voted"):
                chair.debate = (prompts.resumed(), ())
            if label in past.debates:
                self._open_debate(label, past.debates[label], before=prompts.resumed() + " ")
            if status == "looking":
                chair.wake.set()
            if status == "leaving":
                chair.leave(past.leaving[label])

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
                self._notify(self._chairs[action.agent], action)
            case Interrupt():
                self._chairs[action.agent].interrupt()
            case Exclude():
                self._chairs[action.agent].leave(action.why)
            case StartVerify() if self._tasks:
                self._tasks.start_soon(self._verify, action.answer, self._archive.get(action.answer).snapshot)
            case Debate():
                self._debate(action)
            case Select():
                say_selected(self._log, action)
                self._finish(action)
            case Finish():
                self._finish(action)
            case _:
                raise RuntimeError(f"coordination asks for {action} outside a run")

    def _notify(self, chair: Chair, news: Notify) -> None:
        if chair.seat.needs_verdicts:  # else its vote will be stale, and it looks again with the verdict
            return
        chair.notify(self._archive.shown(news.answers, news.agent))
        if news.urgent and self._tasks:
            self._tasks.start_soon(self._hurry, chair)

    def _finish(self, end: Select | Finish) -> None:
        self._end = end
        if self._tasks:
            self._tasks.cancel_scope.cancel()

    # -- one agent

    async def _attend(self, chair: Chair) -> None:
        label = chair.seat.label
        if self._member(label).status == "voted":
            await chair.wake.wait()
        while not chair.leaving and self._end is None:
            try:
                with unwrapped(first=True):  # a session's own tasks wrap what ends them
                    async with (
                        self._rooms.open("agent", label, own=chair.seat.own) as box,
                        chair.seat.open_session(box, chair.transcript) as session,
                    ):
                        await self._restore(chair, box)
                        chair.session = session
                        self._ever_ready = True
                        if self._member(label).status == "starting":
                            self._tell(AgentReady(agent=label))
                        await self._take_part(chair, box, session)
            except SandboxError as error:
                self._lost(chair, error)
        if chair.leaving:
            self._tell(AgentExcluded(agent=label, why=chair.leaving))

    async def _take_part(self, chair: Chair, box: Sandbox, session: Session) -> None:
        while not chair.leaving:
            await chair.wake.wait()
            if failures := self._member(chair.seat.label).failures:
                await anyio.sleep(self._retry_s * 2 ** (failures - 1))
            while self._verifier and chair.seat.needs_verdicts and not self._archive.judged(self.state.latest):
                await self._verdict.wait()
            if not chair.leaving:
                await self._look(chair, box, session)

    async def _restore(self, chair: Chair, box: Sandbox) -> None:
        """Another container: what it had handed in lies there again; what it had not is lost, and said by the failure."""
        own = next((answer for answer in self.state.latest if owner(answer) == chair.seat.label), None)
        if own:
            await box.apply(self._archive.get(own).snapshot, self._archive.store)

    def _lost(self, chair: Chair, error: SandboxError) -> None:
        """A container could not be had, or is gone."""
        label = chair.seat.label
        if isinstance(error, StoreError) or (self._ever_ready and isinstance(error, NOT_THE_AGENTS)):
            raise error
        if chair.session is None:
            if isinstance(error, EngineError | SpecError) and self._start_error is None:
                self._start_error = error
            self._tell(LookFailed(agent=label, why=str(error), fatal=True))
            return
        chair.losses += 1
        if chair.losses > REOPENINGS:
            chair.leave(str(error))
            return
        self._tell(LookFailed(agent=label, why=f"{error}; what it had not handed in is lost"))

    def _member(self, label: str) -> Member:
        return next(m for m in self.state.members if m.label == label)

    async def _look(self, chair: Chair, box: Sandbox, session: Session) -> None:
        label = chair.seat.label
        hand_in = HandingIn(
            answer=next_answer(self.state, label),
            box=box,
            archive=self._archive,
            context=self._context,
            novelty=self._novelty,
            current=lambda: self.state.latest,
        )
        decision: Answered | Voted | Presented | Failed = Failed(why=f"did not decide within {self._look_timeout_s} s")
        with chair.begin_look(self._look_timeout_s):
            view = self._view(chair)
            self._log.emit(LookStarted(agent=label, answers=self.state.latest))
            decision = await session.look(view, hand_in=hand_in)
        if chair.end_look():
            return
        if not isinstance(decision, Failed):
            chair.debate = ("", ())
        match decision:
            case Answered():
                self._answer(chair, hand_in)
            case Voted():
                self._vote(label, decision)
            case Failed():
                if not decision.fatal:
                    await still_there(box, decision.why)
                self._tell(LookFailed(agent=label, why=decision.why, fatal=decision.fatal))
            case Presented():
                self._tell(LookFailed(agent=label, why="presented where an answer or a vote was asked for"))

    def _view(self, chair: Chair) -> View:
        """The set of now, not that of the action: an answer may have come between the two."""
        label = chair.seat.label
        shown = self._archive.shown(self.state.latest, label)
        remark, votes = chair.debate
        return View(
            phase="coordination",
            task=self._task,
            answers=shown,
            own=next((answer.id for answer in shown if answer.own), None),
            latest=self._newest,
            may_answer=may_answer(self.state, label),
            paths=self._rooms.places(chair.seat.own),
            base=self._archive.verdict("base"),
            remark=remark,
            votes=votes,
        )

    def _answer(self, chair: Chair, hand_in: HandingIn) -> None:
        label, answer = chair.seat.label, hand_in.prepared
        if answer is None:
            self._tell(LookFailed(agent=label, why="answered without handing anything in"))
        elif not may_answer(self.state, label):
            self._log.emit(
                Notice(agent=label, text="its answer came after the cap on answers was reached; it looks again to vote")
            )
            chair.wake.set()
        else:
            if notice := hand_in.notice(label):
                self._log.emit(notice)
            # Only this agent's own answers move its version, so the id still holds after the wait.
            self._tell(given(label, answer), then=lambda: self._archive.publish(answer))

    def _vote(self, label: str, vote: Voted) -> None:
        self._reasons[label] = vote.reason
        self._tell(VoteCast(agent=label, for_agent=vote.label, reason=vote.reason, seen=vote.seen))

    @property
    def _newest(self) -> str | None:
        newest = self._archive.newest
        return owner(newest) if newest else None

    def _debate(self, debate: Debate) -> None:
        say_debate(self._log, debate)
        for voter, _ in debate.votes:
            self._open_debate(voter, debate)

    def _open_debate(self, voter: str, debate: Debate, *, before: str = "") -> None:
        """The agent's next look begins with it."""
        rules = self.state.rules
        remark = prompts.debate(share=debate.share, wanted=rules.consensus, number=debate.round, rounds=rules.max_debates)
        votes = tuple(self._shown_vote(who, label) for who, label in debate.votes)
        self._chairs[voter].debate = (before + remark, votes)

    def _shown_vote(self, voter: str, label: str) -> ShownVote:
        return ShownVote(voter=voter, label=label, reason=self._reasons.get(voter, ""))

    # -- beside the agents

    async def _verify(self, answer: str, snapshot: Snapshot) -> None:
        if self._verifier is None:
            return
        verdict = await self._verifier.check(answer, snapshot, agent="" if answer == "base" else owner(answer))
        self._tell(verdict, then=lambda: self._archive.add_verdict(verdict))
        if answer == "base" and not verdict.ok and self._end is None:
            text = f"the verify command fails on your project as it is ({verdict.summary}); answers are measured against that"
            self._log.emit(Notice(text=text, level="warning"))
        self._verdict.set()
        self._verdict = anyio.Event()

    async def _hurry(self, chair: Chair) -> None:
        await anyio.sleep(self._news_within_s)
        if chair.session and chair.session.behind:
            await chair.session.interrupt("the answers have changed meanwhile; you are told of it now")

    async def _watch(self, patience: Patience) -> None:
        why: dict[str, Cut] = {"time": TimeUp(), "stop": UserStop(), "budget": BudgetOut()}
        cut = why[await patience.ran_out()]
        if self._end is None:
            self._cut = cut
            self._tell(cut)
