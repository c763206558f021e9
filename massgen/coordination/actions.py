"""What coordination wants done, as values: the only output of `state.advance` beside the next state.

An action names agents by label and answers by id; whoever does it finds the texts. None of them says when: what
takes time or may be put off (how long a command may go on before it hears of a new answer) is the orchestrator's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StartLook:
    """Show the agent these answers."""

    agent: str
    answers: tuple[str, ...]
    may_answer: bool = True
    """False: its answers, or those of all, are used up; it can only vote."""


@dataclass(frozen=True, kw_only=True)
class Notify:
    """The agent is in mid-look: let it know with its next tool results."""

    agent: str
    answers: tuple[str, ...]
    urgent: bool = True
    """There is a new answer; False: only a verdict on one that it knows, for which no command is stopped."""


@dataclass(frozen=True, kw_only=True)
class Interrupt:
    """What the agent does in this look can no longer count: drop it. A StartLook follows."""

    agent: str
    why: str


@dataclass(frozen=True, kw_only=True)
class StartVerify:
    """Run the verify command on this answer."""

    answer: str


@dataclass(frozen=True, kw_only=True)
class Exclude:
    """Stop the agent, then say AgentExcluded."""

    agent: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Debate:
    """All have voted and agree too little: votes are cleared, and everybody looks again with these before it."""

    round: int
    """From 1."""
    votes: tuple[tuple[str, str], ...]
    """(voter, agent it voted for), in registration order."""
    share: float
    """Of the live agents, how many voted for the leading answer."""


@dataclass(frozen=True, kw_only=True)
class Select:
    """It is decided."""

    agent: str
    answer: str
    votes: tuple[tuple[str, int], ...]
    why: str


@dataclass(frozen=True, kw_only=True)
class Finish:
    """It ends without an answer."""

    why: str


Action = StartLook | Notify | Interrupt | StartVerify | Exclude | Debate | Select | Finish
