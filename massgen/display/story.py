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
    ModelCalled,
    Notice,
    Presented,
    RunFinished,
    RunStarted,
    Selected,
    Verified,
    VoteCast,
)
from massgen.messages import Usage


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
    usage: dict[str, Usage] = field(default_factory=dict)
    """By agent id."""
    calls: int = 0
    cost_usd: float = 0.0
    """Of the calls whose price is known."""
    unpriced: int = 0
    """Calls whose price nobody knows."""
    _names: dict[str, str] = field(default_factory=dict)

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
        elif isinstance(event, VoteCast):
            self.votes = [v for v in self.votes if v.agent != event.agent]
            self.votes.append(event)
        else:
            self._outcome(event)

    def _outcome(self, event: Event) -> None:
        match event:
            case Verified():
                self.verified[event.answer] = event
            case ModelCalled():
                name = self.name(event.agent)
                self.usage[name] = self.usage.get(name, Usage()) + event.usage
                self.calls += 1
                self.cost_usd += event.cost_usd or 0.0
                self.unpriced += event.cost_usd is None
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
    def total(self) -> Usage:
        """All tokens."""
        return sum(self.usage.values(), Usage())

    def at(self, ts: str) -> float:
        """Seconds since the start of the run."""
        return max((datetime.fromisoformat(ts) - self.start).total_seconds(), 0.0) if self.start else 0.0
