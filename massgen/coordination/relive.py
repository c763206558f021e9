"""What a log says of a run that did not come to its end: the coordination as it stood, and how far the rest had come. Pure.

The facts are given to `advance` once more, so the state is the one that the run had; what `advance` asked for on the way was
done then. Only what was still to be done counts: debates that an agent has not looked at yet, exclusions that were not said, an
end that was reached and not carried out. Nothing is guessed from times or from what containers held: those are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from massgen.coordination.state import Action, Debate, Exclude, Finish, Select, State, advance
from massgen.events.codec import Envelope
from massgen.events.types import (
    AgentReady,
    AnswerGiven,
    Applied,
    BudgetOut,
    Conflicted,
    DebateStarted,
    Event,
    Fact,
    LeaseGranted,
    LookFailed,
    LookStarted,
    ModelAsked,
    ModelCalled,
    ModelFailed,
    Presented,
    RunFinished,
    RunResumed,
    RunStarted,
    SandboxEnded,
    SandboxStarted,
    Selected,
    TimeUp,
    UserStop,
    Verified,
    VoteCast,
)
from massgen.messages import Usage

Cut = TimeUp | BudgetOut | UserStop
"""What ends coordination from outside."""


@dataclass(frozen=True, kw_only=True)
class Relived:
    """Coordination as it stood when the run died."""

    state: State
    end: Select | Finish | None = None
    cut: Cut | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Of the latest vote of each voter."""
    debates: Mapping[str, Debate] = field(default_factory=dict)
    """By label: the debate that its next look is to open with."""
    selected: bool = False
    """The end was said."""
    unsaid: tuple[Debate, ...] = ()
    """Debates that were decided on and not said."""
    leaving: Mapping[str, str] = field(default_factory=dict)
    """By label: why it is to be excluded."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """A log, read for going on."""

    started: RunStarted | None = None
    """None: it died before it began."""
    facts: tuple[Fact, ...] = ()
    debates: int = 0
    """Rounds that were said."""
    selected: Selected | None = None
    presented: Presented | None = None
    applied: Applied | None = None
    """The last write, unless it was taken back."""
    lease: LeaseGranted | None = None
    """Granted, and nothing says what came of it."""
    boxes: tuple[SandboxStarted, ...] = ()
    """Containers of which the end was not said."""
    looks: Mapping[str, int] = field(default_factory=dict)
    """By label: completed model calls of a look that had not ended."""
    asked: frozenset[str] = frozenset()
    """Labels with a model call under way."""
    calls: tuple[ModelCalled, ...] = ()
    ended: str = ""
    """The outcome of a RunFinished that does not count; empty: there is none."""
    active_s: float = 0.0
    """How long it ran, without the pauses between death and resumption."""

    @property
    def answers(self) -> tuple[AnswerGiven, ...]:
        """In the order in which they were given."""
        return tuple(fact for fact in self.facts if isinstance(fact, AnswerGiven))

    @property
    def verdicts(self) -> tuple[Verified, ...]:
        """On answers, `base` and `final`; the last one on each counts."""
        return tuple(fact for fact in self.facts if isinstance(fact, Verified))


def relive(state: State, past: Past) -> Relived:
    """`state`: before the first fact, with the rules of then."""
    reasons: dict[str, str] = {}
    debates: dict[str, Debate] = {}
    leaving: dict[str, str] = {}
    opened: list[Debate] = []
    end: Select | Finish | None = None
    cut: Cut | None = None
    for fact in past.facts:
        if not state.ended and isinstance(fact, Cut):
            cut = fact
        state, actions = advance(state, fact)
        match fact:
            case VoteCast():
                reasons[fact.agent] = fact.reason
                debates.pop(fact.agent, None)
            case AnswerGiven():
                debates.pop(fact.agent, None)
            case _:
                pass
        for action in actions:
            end = _note(action, debates, opened, leaving) or end
    return Relived(
        state=state,
        end=end,
        cut=cut,
        reasons=reasons,
        debates=debates,
        selected=past.selected is not None,
        unsaid=tuple(opened[past.debates :]),
        leaving=leaving,
    )


def _note(action: Action, debates: dict[str, Debate], opened: list[Debate], leaving: dict[str, str]) -> Select | Finish | None:
    match action:
        case Debate():
            opened.append(action)
            debates.update((voter, action) for voter, _ in action.votes)
        case Exclude():
            leaving[action.agent] = action.why
        case Select() | Finish():
            return action
        case _:
            pass
    return None


NOTHING = Past()
"""Of a run that begins."""


class _Reader:
    """Adds up what cannot be told from the facts alone."""

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.selected: Selected | None = None
        self.presented: Presented | None = None
        self.applied: Applied | None = None
        self.lease: LeaseGranted | None = None
        self.boxes: dict[str, SandboxStarted] = {}
        self.looks: dict[str, int] = {}
        self.asked: set[str] = set()
        self.calls: list[ModelCalled] = []
        self.debates = 0
        self.ended = ""

    def take(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.started = event
            case DebateStarted():
                self.debates += 1
            case SandboxStarted():
                self.boxes[event.container] = event
            case SandboxEnded():
                self.boxes.pop(event.container, None)
            case _:
                self._look(event)
                self._decision(event)

    def _look(self, event: Event) -> None:
        match event:
            case ModelAsked():
                self.asked.add(event.agent)
            case ModelFailed():
                self.asked.discard(event.agent)
            case ModelCalled():
                self.calls.append(event)
                self.asked.discard(event.agent)
                if event.agent in self.looks:
                    self.looks[event.agent] += 1
            case LookStarted():
                self.looks[event.agent] = 0
            case AnswerGiven() | VoteCast() | LookFailed():
                self.looks.pop(event.agent, None)
            case Selected() | Presented() | RunResumed():
                self.looks.clear()
                self.asked.clear()
            case _:
                pass

    def _decision(self, event: Event) -> None:
        match event:
            case Selected():
                self.selected = event
            case Presented():
                self.presented = event
            case RunFinished():
                self.ended = event.outcome
            case RunResumed():
                self.ended = ""
            case LeaseGranted() if event.purpose != "recover":
                self.lease = event
            case Conflicted():
                self.lease = None
            case Applied():
                self.applied, self.lease = (None if event.purpose == "undo" else event), None
            case _:
                pass


def read_past(envelopes: Iterable[Envelope]) -> Past:
    """The log of one run, from its first event."""
    reader = _Reader()
    facts: list[Fact] = []
    active_s = 0.0
    begun = last = ""
    for envelope in envelopes:
        event = envelope.event
        if isinstance(event, RunResumed):
            active_s += _between(begun, last)
            begun = ""
        begun, last = begun or envelope.ts, envelope.ts
        reader.take(event)
        if isinstance(event, Fact):
            facts.append(event)
    return Past(
        started=reader.started,
        facts=tuple(facts),
        debates=reader.debates,
        selected=reader.selected,
        presented=reader.presented,
        applied=reader.applied,
        lease=reader.lease,
        boxes=tuple(reader.boxes.values()),
        looks=reader.looks,
        asked=frozenset(reader.asked),
        calls=tuple(reader.calls),
        ended=reader.ended,
        active_s=active_s + _between(begun, last),
    )


def _between(first: str, last: str) -> float:
    return max((datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds(), 0.0) if first else 0.0


class Tally:
    """A reader that adds up tokens, and knows whether any agent came to work."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.worked = False

    def __call__(self, envelope: Envelope) -> None:
        """Take one event."""
        if isinstance(envelope.event, ModelCalled):
            self.usage += envelope.event.usage
        self.worked = self.worked or isinstance(envelope.event, AgentReady)
