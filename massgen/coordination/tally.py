"""Who wins, as a pure function of votes and verdicts; the order in which votes arrived does not exist here.

Most votes win. On a tie an answer that passes the verify command beats one that does not (failing and unknown
are alike), then registration order decides. No votes at all is the tie of zeros, which gives the rule for
runs that were cut short: the first verified answer, else the first answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An agent with its latest answer; given in registration order."""

    agent: str
    answer: str
    passed: bool
    """The verify command ran on it and passed."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The outcome of a vote."""

    agent: str
    answer: str
    votes: Mapping[str, int]
    """Votes per candidate, in registration order, zeros left out."""
    why: str
    """For people: how it was decided."""


def choose(candidates: Sequence[Candidate], votes: Iterable[str]) -> Choice:
    """The winner among at least one candidate; `votes` names one candidate's agent per voter."""
    count = Counter(votes)
    ranked = sorted(enumerate(candidates), key=lambda item: (-count[item[1].agent], not item[1].passed, item[0]))
    winner = ranked[0][1]
    tally = {c.agent: count[c.agent] for c in candidates if count[c.agent]}
    rivals = [c for _, c in ranked[1:] if count[c.agent] == count[winner.agent]]
    return Choice(agent=winner.agent, answer=winner.answer, votes=tally, why=_why(winner, rivals, tally, len(candidates)))


def _why(winner: Candidate, rivals: Sequence[Candidate], tally: Mapping[str, int], total: int) -> str:
    if total == 1 and not tally:
        return "the only answer"
    beaten_by_verify = winner.passed and not any(rival.passed for rival in rivals)
    if not tally:
        return "no votes: the first verified answer" if winner.passed else "no votes: the first answer"
    share = f"{tally[winner.agent]} of {sum(tally.values())} votes"
    if not rivals:
        return share
    return f"{share}, tie decided by {'the verify command' if beaten_by_verify else 'registration order'}"
