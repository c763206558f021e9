"""A run so far, folded from its events: what the progress lines, the summary and the run folder have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from massgen.events.codec import Envelope
from massgen.events.types import (
    AgentExcluded,
    AnswerGiven,
    Applied,
    Conflicted,
    DebateStarted,
    Event,
    LookStarted,
    ModelCalled,
    Notice,
    Presented,
    RunFinished,
    RunResumed,
    RunStarted,
    Selected,
    Verified,
    VoteCast,
)
from massgen.messages import Usage


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What some calls took."""

    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    """Of the calls whose price is known."""
    unpriced: int = 0
    """Calls whose price nobody knows."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            calls=self.calls + other.calls,
            usage=self.usage + other.usage,
            cost_usd=self.cost_usd + other.cost_usd,
            unpriced=self.unpriced + other.unpriced,
        )


@dataclass(kw_only=True)
class Story:
    """Mutable on purpose: one reader owns it and feeds every envelope in order."""

    started: RunStarted | None = None
    run_id: str = ""
    start: datetime | None = None
    answers: list[AnswerGiven] = field(default_factory=list)
    votes: list[VoteCast] = field(default_factory=list)
    """Those since the last answer or debate, which clear them."""
    verified: dict[str, Verified] = field(default_factory=dict)
    """By answer id, `base` and `final` among them."""
    selected: Selected | None = None
    presented: Presented | None = None
    applied: Applied | None = None
    conflicted: Conflicted | None = None
    finished: RunFinished | None = None
    excluded: dict[str, str] = field(default_factory=dict)
    """Why, by agent id."""
    warnings: list[str] = field(default_factory=list)
    spent: dict[tuple[str, str], Spent] = field(default_factory=dict)
    """By agent id and phase (coordination, final), in the order of their first calls."""
    _names: dict[str, str] = field(default_factory=dict)
    _phases: dict[str, str] = field(default_factory=dict)

    def feed(self, envelope: Envelope) -> None:
        """Take one event."""
        event = envelope.event
        if isinstance(event, RunStarted):
            self.started, self.run_id, self.start = event, envelope.run_id, datetime.fromisoformat(envelope.ts)
            self._names = {str(a.get("label", "")): str(a.get("id", "")) for a in event.agents}
        elif isinstance(event, AnswerGiven):
            self.answers.append(event)
            self.votes.clear()
        elif isinstance(event, DebateStarted):
            self.votes.clear()
        elif isinstance(event, RunResumed):
            self.finished = None
        elif isinstance(event, VoteCast):
            self.votes = [v for v in self.votes if v.agent != event.agent]
            self.votes.append(event)
        elif isinstance(event, LookStarted):
            self._phases[event.agent] = event.phase
        elif isinstance(event, ModelCalled):
            self._count(event)
        else:
            self._outcome(event)

    def _count(self, event: ModelCalled) -> None:
        whose = self.name(event.agent), self._phases.get(event.agent, "coordination")
        cost = event.cost_usd
        one = Spent(calls=1, usage=event.usage, cost_usd=cost or 0.0, unpriced=int(cost is None))
        self.spent[whose] = self.spent.get(whose, Spent()) + one

    def _outcome(self, event: Event) -> None:
        match event:
            case Verified():
                self.verified[event.answer] = event
            case AgentExcluded():
                self.excluded[self.name(event.agent)] = event.why
            case Selected():
                self.selected = event
            case Presented():
                self.presented = event
            case Applied():
                self.applied = event
            case Conflicted():
                self.conflicted = event
            case RunFinished():
                self.finished = event
            case Notice() if event.level == "warning":
                self.warnings.append(event.text)
            case _:
                pass

    def name(self, agent: str) -> str:
        """The id that the user gave, for an id or an anonymous label."""
        return self._names.get(agent, agent)

    @property
    def agents(self) -> tuple[str, ...]:
        """Ids in registration order."""
        return tuple(self._names.values())

    @property
    def all_spent(self) -> Spent:
        """Of the whole run."""
        return sum(self.spent.values(), Spent())

    @property
    def usage(self) -> dict[str, Usage]:
        """Tokens by agent id."""
        found: dict[str, Usage] = {}
        for (agent, _), spent in self.spent.items():
            found[agent] = found.get(agent, Usage()) + spent.usage
        return found

    def at(self, ts: str) -> float:
        """Seconds since the start of the run."""
        return max((datetime.fromisoformat(ts) - self.start).total_seconds(), 0.0) if self.start else 0.0
