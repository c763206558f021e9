"""How coordination ended, and the events that say what was decided on the way there."""

from __future__ import annotations

from dataclasses import dataclass

from massgen.agent.view import ShownVote
from massgen.coordination.actions import Debate, Finish, Select
from massgen.coordination.relive import Cut
from massgen.events.log import EventLog
from massgen.events.types import DebateStarted, Selected
from massgen.messages import Message


@dataclass(frozen=True, kw_only=True)
class Decided:
    """How coordination ended."""

    end: Select | Finish
    cut: Cut | None
    """What cut it short, if anything did."""
    votes: tuple[ShownVote, ...] = ()
    """All that counted, in registration order."""
    answers: tuple[str, ...] = ()
    """The latest answers."""
    transcript: tuple[Message, ...] = ()
    """The winner's; empty when it took no part since the run was resumed."""
    reasons: tuple[str, ...] = ()
    """Why each agent is out, where nobody has won."""


def say_selected(log: EventLog, choice: Select) -> None:
    """Who won, and how."""
    log.emit(Selected(agent=choice.agent, answer=choice.answer, votes=dict(choice.votes), why=choice.why))


def say_debate(log: EventLog, debate: Debate) -> None:
    """Votes are cleared, and all look again."""
    log.emit(DebateStarted(round=debate.round, votes=dict(debate.votes), share=debate.share))
