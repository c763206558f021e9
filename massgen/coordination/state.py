"""Coordination as a pure function: `advance(state, fact) -> (state, actions)`. No clock, no I/O, no chance.

All agents get the task at once: the first looks start when every container is up or given up. An agent looks at
the current answers and ends the look with an answer or a vote. An answer clears all votes and
everybody looks again; the run is decided when every live agent has voted on the latest set (one that is alone
need not vote) and, where a verify command is configured, every latest answer has its verdict. Where a consensus is
asked for and the leading answer has fewer votes, they debate: votes are cleared, all look again with the reasons
before them, so many times in a run and no more; then most votes win as they are.

An excluded agent's last answer stays eligible; its own vote does not count, as it can no longer change its mind
about what comes after. A vote counts only when `seen` is exactly the latest set of answers: one cast on less is
dropped and its agent looks again. Facts that cannot be (after the end, of an unknown or excluded agent, a vote
by someone who is not looking) change nothing, so replay of any log gives the same state as the run had.

Two shapes were ruled out: events that mutate agents in place (replay would need the whole orchestrator), and a
state that keeps the texts (a thousand answers would be copied; ids are enough to decide).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, assert_never

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
from massgen.coordination.tally import Candidate, choose
from massgen.events.types import (
    AgentExcluded,
    AgentReady,
    AnswerGiven,
    BudgetOut,
    Fact,
    LookFailed,
    TimeUp,
    UserStop,
    Verified,
    VoteCast,
)

__all__ = [
    "FAILURES_ALLOWED",
    "Action",
    "Debate",
    "Exclude",
    "Finish",
    "Interrupt",
    "Member",
    "Notify",
    "Rules",
    "Select",
    "StartLook",
    "StartVerify",
    "State",
    "advance",
    "may_answer",
    "next_answer",
    "owner",
    "replay",
    "start",
]

FAILURES_ALLOWED = 2
"""So many failed looks in a row exclude an agent."""

_CUT = {TimeUp: "time is up", BudgetOut: "the budget is used up", UserStop: "stopped by the user"}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the configuration decides. None: no cap."""

    verify: bool = False
    max_new_answers_per_agent: int | None = None
    max_new_answers_global: int | None = None
    consensus: float = 0.0
    """The share of the live agents that must agree, 0 to 1; 0: most votes win."""
    max_debates: int = 1
    """How often in a run they look again because too few agreed."""

    def __post_init__(self) -> None:
        if not 0 <= self.consensus <= 1 or self.max_debates < 0:
            raise ValueError("a consensus is a share from 0 to 1, and debates are counted from 0")
        if any(cap is not None and cap < 1 for cap in (self.max_new_answers_per_agent, self.max_new_answers_global)):
            raise ValueError("a cap on new answers below 1 would leave nothing to vote on")


Status = Literal["starting", "ready", "looking", "voted", "leaving", "out"]
"""ready: waits for the others to start. leaving: to be excluded, the fact is not there yet; no more looks."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One agent as coordination sees it."""

    label: str
    status: Status = "starting"
    answers: int = 0
    """How many it has given; the latest is `label.answers`."""
    vote: str = ""
    """The agent it votes for, on the latest set. Empty: none."""
    failures: int = 0
    """Failed looks in a row."""

    @property
    def live(self) -> bool:
        """Still takes part."""
        return self.status != "out"


@dataclass(frozen=True, kw_only=True)
class State:
    """All that decides. Equal states act equally."""

    rules: Rules
    members: tuple[Member, ...]
    """In registration order."""
    latest: tuple[str, ...] = ()
    """The newest answer of each agent that has one, in registration order."""
    verdicts: tuple[tuple[str, bool], ...] = ()
    """Answer id and whether it passed, in order of arrival; superseded answers are dropped."""
    debates: int = 0
    """Rounds of debate so far."""
    ended: bool = False


Step = tuple[State, tuple[Action, ...]]


# -- the function -----------------------------------------------------------------------------------------------


def start(labels: Iterable[str], rules: Rules | None = None) -> State:
    """The state before the first fact. `labels` in registration order, unique, at least one."""
    members = tuple(Member(label=label) for label in labels)
    if not members or len({m.label for m in members}) != len(members):
        raise ValueError("coordination needs at least one agent, each with a label of its own")
    return State(rules=rules or Rules(), members=members)


def replay(state: State, facts: Iterable[Fact]) -> State:
    """The state after these facts; what the run did on the way is not repeated."""
    for fact in facts:
        state, _ = advance(state, fact)
    return state


def advance(state: State, fact: Fact) -> Step:
    """The next state and what is to be done now, in order."""
    if state.ended:
        return state, ()
    match fact:
        case AgentReady():
            return _of_member(state, fact.agent, _ready)
        case AnswerGiven():
            return _of_member(state, fact.agent, lambda s, m: _answered(s, m, fact))
        case VoteCast():
            return _of_member(state, fact.agent, lambda s, m: _voted(s, m, fact))
        case LookFailed():
            return _of_member(state, fact.agent, lambda s, m: _failed(s, m, fact))
        case AgentExcluded():
            return _of_member(state, fact.agent, _excluded)
        case Verified():
            return _verified(state, fact)
        case TimeUp() | BudgetOut() | UserStop():
            return _end(state, f"{_CUT[type(fact)]}: ")
        case _:
            assert_never(fact)


def may_answer(state: State, label: str) -> bool:
    """Whether the caps leave this agent another answer."""
    own, total = state.rules.max_new_answers_per_agent, state.rules.max_new_answers_global
    if own is None and total is None:
        return True
    given = {m.label: m.answers for m in state.members}
    return (own is None or given.get(label, 0) < own) and (total is None or sum(given.values()) < total)


def next_answer(state: State, label: str) -> str:
    """The id that this agent's next answer will have."""
    return f"{label}.{_member(state, label).answers + 1}"


def owner(answer: str) -> str:
    """The label in an answer id."""
    return answer.rpartition(".")[0]


# -- one arm each -----------------------------------------------------------------------------------------------


def _ready(state: State, member: Member) -> Step:
    if member.status != "starting":
        return state, ()
    return _begin(_with(state, replace(member, status="ready")))


def _begin(state: State) -> Step:
    """Once nobody is starting any more: the first look of all who wait for it."""
    waiting = [m.label for m in state.members if m.status == "ready"]
    if state.ended or not waiting or any(m.status == "starting" for m in state.members):
        return state, ()
    members = tuple(replace(m, status="looking") if m.status == "ready" else m for m in state.members)
    state = replace(state, members=members)
    return state, tuple(_look(state, label) for label in waiting)


def _answered(state: State, member: Member, fact: AnswerGiven) -> Step:
    if member.status != "looking" or fact.answer != f"{member.label}.{member.answers + 1}":
        return state, ()
    if not may_answer(state, member.label):
        return state, (_look(state, member.label),)
    before, told = state, [m for m in state.members if m.status in ("looking", "voted") and m is not member]
    members = tuple(
        replace(m, status="looking", answers=m.answers + 1, failures=0, vote="")
        if m is member
        else replace(m, status="looking" if m.status == "voted" else m.status, vote="")
        for m in state.members
    )
    latest = tuple(f"{m.label}.{m.answers}" for m in members if m.answers)
    state = replace(state, members=members, latest=latest, verdicts=tuple(v for v in state.verdicts if v[0] in latest))
    actions = [action for m in told for action in _told(before, state, m)]
    if state.rules.verify:
        actions.append(StartVerify(answer=fact.answer))
    state, end = _settle(state)
    # The end comes instead of the looks: an agent alone is selected without being asked to vote for itself.
    return (state, end) if end else (state, (*_own_look(state, member.label), *actions))


def _told(before: State, state: State, member: Member) -> tuple[Action, ...]:
    """How one of the others hears of a new answer."""
    if member.status == "voted":
        return (_look(state, member.label),)
    if may_answer(before, member.label) and not may_answer(state, member.label):
        # The last answer was given by somebody else: what it is working on could not be handed in.
        return Interrupt(agent=member.label, why="all new answers are used up"), _look(state, member.label)
    return (Notify(agent=member.label, answers=state.latest),)


def _own_look(state: State, label: str) -> tuple[Action, ...]:
    return () if _alone(state) else (_look(state, label),)


def _voted(state: State, member: Member, fact: VoteCast) -> Step:
    if member.status != "looking":
        return state, ()
    answered = any(m.label == fact.for_agent and m.answers for m in state.members)
    if not answered or set(fact.seen) != set(state.latest):
        return state, (_look(state, member.label),)
    return _settle(_with(state, replace(member, status="voted", vote=fact.for_agent, failures=0)))


def _failed(state: State, member: Member, fact: LookFailed) -> Step:
    if member.status not in ("starting", "looking"):
        return state, ()
    failures = member.failures + 1
    if fact.fatal or failures >= FAILURES_ALLOWED or member.status == "starting":
        state, looks = _begin(_with(state, replace(member, status="leaving", failures=failures)))
        return state, (Exclude(agent=member.label, why=fact.why), *looks)
    state = _with(state, replace(member, failures=failures))
    return state, (_look(state, member.label),)


def _excluded(state: State, member: Member) -> Step:
    if not member.live:
        return state, ()
    state, end = _settle(_with(state, replace(member, status="out", vote="")))
    state, looks = _begin(state)
    return state, (*end, *looks)


def _verified(state: State, fact: Verified) -> Step:
    if fact.answer not in state.latest or any(answer == fact.answer for answer, _ in state.verdicts):
        return state, ()
    state, end = _settle(replace(state, verdicts=(*state.verdicts, (fact.answer, fact.ok))))
    news = tuple(Notify(agent=m.label, answers=state.latest, urgent=False) for m in state.members if m.status == "looking")
    return state, end or news


# -- the end ----------------------------------------------------------------------------------------------------


def _settle(state: State) -> Step:
    """The end, when nothing is left to wait for."""
    live = [m for m in state.members if m.live]
    alone = len(live) == 1 and live[0].answers > 0
    if not alone and any(m.status != "voted" for m in live):
        return state, ()
    if state.rules.verify and len(state.verdicts) < len(state.latest):
        return state, ()
    return _debate(state) if _share(state) < state.rules.consensus and _may_debate(state) else _end(state, "")


def _debate(state: State) -> Step:
    """Votes cleared, everybody looks again."""
    cast = tuple((m.label, m.vote) for m in state.members if m.live)
    opening = Debate(round=state.debates + 1, votes=cast, share=_share(state))
    members = tuple(replace(m, status="looking", vote="") if m.live else m for m in state.members)
    state = replace(state, members=members, debates=state.debates + 1)
    return state, (opening, *(_look(state, m.label) for m in members if m.live))


def _may_debate(state: State) -> bool:
    """There are votes to disagree: nobody may be left, and one that is alone and has answered is not asked for any."""
    live = [m for m in state.members if m.live]
    return bool(live) and state.debates < state.rules.max_debates and all(m.status == "voted" for m in live)


def _share(state: State) -> float:
    """The leading answer's votes among the live agents, to two places, as people write it (2 of 3 is 0.67); 0 without any."""
    live = [m for m in state.members if m.live]
    votes = Counter(m.vote for m in live if m.vote)
    return round(max(votes.values(), default=0) / len(live), 2) if live else 0.0


def _alone(state: State) -> bool:
    return sum(m.live for m in state.members) == 1


def _end(state: State, cut: str) -> Step:
    ended = replace(state, ended=True)
    if not state.latest:
        return ended, (Finish(why=f"{cut}no answer"),)
    passed = {answer for answer, ok in state.verdicts if ok}
    candidates = [Candidate(agent=owner(answer), answer=answer, passed=answer in passed) for answer in state.latest]
    choice = choose(candidates, [m.vote for m in state.members if m.live and m.vote])
    short = "" if cut or not choice.votes or _share(state) >= state.rules.consensus else ", short of the consensus asked for"
    select = Select(agent=choice.agent, answer=choice.answer, votes=tuple(choice.votes.items()), why=f"{cut}{choice.why}{short}")
    return ended, (select,)


def _look(state: State, label: str) -> StartLook:
    return StartLook(agent=label, answers=state.latest, may_answer=may_answer(state, label))


def _of_member(state: State, label: str, step: Callable[[State, Member], Step]) -> Step:
    for member in state.members:
        if member.label == label:
            return step(state, member)
    return state, ()


def _member(state: State, label: str) -> Member:
    return next(m for m in state.members if m.label == label)


def _with(state: State, changed: Member) -> State:
    return replace(state, members=tuple(changed if m.label == changed.label else m for m in state.members))
