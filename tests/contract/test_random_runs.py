"""Whole runs with agents that do anything: they end, and who wins had the most votes that were cast on what stood."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from massgen.agent.view import Answered, Decision, Failed, Presented, Voted
from massgen.coordination.state import Rules, replay, start
from massgen.events.replay import facts, read
from massgen.events.types import AgentExcluded, AnswerGiven, DebateStarted, Selected, VoteCast
from sandbox.testing import FakeEngine
from tests.support.scripted_run import Play, Run, Turn, make_project


async def write(turn: Turn) -> Decision:
    """An answer with a file."""
    await turn.write("code.txt", f"{turn.number}\n")
    return Answered(text="with a file")


async def silent(turn: Turn) -> Decision:
    """Nothing, ever: the look's deadline has to end it."""
    await anyio.sleep_forever()
    raise AssertionError(turn)


async def crash(turn: Turn) -> Decision:
    """A command that kills itself, then whatever there is to do."""
    await turn.session.box.run(["sh", "-c", "kill -9 $$"])
    return ordinary(turn)


def ordinary(turn: Turn) -> Decision:
    """A vote for what is shown first, or an answer where there is nothing."""
    return turn.vote(turn.view.answers[0].label) if turn.view.answers else Answered(text="the only thing to do")


LASTING = {"write": write, "silent": silent, "crash": crash}
AT_ONCE: dict[str, Callable[[Turn], Decision]] = {
    "answer": lambda turn: Answered(text=f"look {turn.number} of {id(turn.session)}"),
    "vote": ordinary,
    "last": lambda turn: turn.vote(turn.view.answers[-1].label) if turn.view.answers else ordinary(turn),
    "stale": lambda turn: Voted(label="agent1", reason="", seen=turn.session.seen[:-1]),
    "nobody": lambda turn: Voted(label="agent9", reason="", seen=turn.session.seen),
    "present": lambda _: Presented(text="too early"),
    "fail": lambda _: Failed(why="no idea"),
    "fatal": lambda _: Failed(why="no key", fatal=True),
}
AGENTS = st.lists(st.lists(st.sampled_from([*LASTING, *AT_ONCE]), max_size=6), min_size=1, max_size=4)
CONSENSUS = st.sampled_from([0.0, 0.75])
LOOK_S = 0.05
"""Long enough for most looks. On a busy machine more of them are cut off, which is one more thing that agents do."""
PIECES = 40
"""Of the ten thousand: a day's slice of the slow tests has some of them, and each is done in minutes."""


def play(moves: list[str]) -> Play:
    """An agent that makes these moves, one a look, and then does the ordinary thing."""
    left = list(moves)

    async def act(turn: Turn) -> Decision:
        if turn.view.phase == "final":
            return Presented(text="done")
        move = left.pop(0) if left else "vote"
        return await LASTING[move](turn) if move in LASTING else AT_ONCE[move](turn)

    return act


def expected(events: list[object]) -> tuple[str, dict[str, int]]:
    """The winner and the votes, told from the log alone and without the state machine."""
    latest: dict[str, str] = {}
    votes: dict[str, str] = {}
    for event in events:
        match event:
            case AnswerGiven():
                latest[event.agent] = event.answer
                votes.clear()
            case DebateStarted():
                votes.clear()
            case VoteCast() if event.for_agent in latest and set(event.seen) == set(latest.values()):
                votes[event.agent] = event.for_agent
            case AgentExcluded():
                votes.pop(event.agent, None)
            case _:
                pass
    count = Counter(votes.values())
    return max(sorted(latest), key=lambda label: count[label], default=""), dict(count)


def law(agents: list[list[str]], consensus: float) -> None:
    """One run."""
    with tempfile.TemporaryDirectory(prefix="massgen-random-") as name:
        folder = Path(name)
        run = Run(
            folder=folder,
            engine=FakeEngine(folder / "boxes"),
            project=make_project(folder),
            plays={f"agent{n}": play(moves) for n, moves in enumerate(agents, start=1)},
            write_mode="never",
            rules=Rules(consensus=consensus, max_new_answers_global=6),
            look_timeout_s=LOOK_S,
        )
        anyio.run(run.go)
        envelopes = list(read(run.run_dir / "events.jsonl"))
        rules = Rules(consensus=consensus, max_new_answers_global=6)
        assert run.live == replay(start(list(run.plays), rules), facts(envelopes))
        assert run.live is not None
        assert run.live.ended
        winner, votes = expected([envelope.event for envelope in envelopes])
        selected = run.of(Selected)
        assert bool(selected) == bool(winner)
        for event in selected:
            assert isinstance(event, Selected)
            assert event.votes == votes
            assert event.agent == winner
        assert run.engine.running == 0


QUIET = (HealthCheck.too_slow,)


@settings(max_examples=25, deadline=None, suppress_health_check=QUIET)
@given(agents=AGENTS, consensus=CONSENSUS)
def test_a_run_of_anybody_ends_with_the_most_valid_votes(agents: list[list[str]], consensus: float) -> None:
    """Answers, votes, votes on less than there is, nonsense, errors, silence: it ends, and by its log the winner won."""
    law(agents, consensus)


@pytest.mark.parametrize("piece", [pytest.param(n, marks=pytest.mark.slow(turn=n)) for n in range(PIECES)])
def test_ten_thousand_runs_of_anybody(piece: int) -> None:
    """The same, at length: each piece from a seed of its own, so that a find comes again."""
    often = settings(max_examples=10_000 // PIECES, deadline=None, database=None, suppress_health_check=QUIET)
    seed(piece)(often(given(agents=AGENTS, consensus=CONSENSUS)(law)))()
