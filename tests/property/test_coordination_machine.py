"""Laws of coordination under agents that do anything: it ends, counts right, and replays to the same state."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from massgen.coordination.state import (
    Action,
    Debate,
    Exclude,
    Finish,
    Interrupt,
    Notify,
    Rules,
    Select,
    StartLook,
    StartVerify,
    State,
    advance,
    may_answer,
    next_answer,
    owner,
    replay,
    start,
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

AGENTS = st.sampled_from([f"agent{n}" for n in range(1, 6)])
IDS = st.builds("{}.{}".format, AGENTS, st.integers(1, 3))


RULES = st.builds(
    Rules,
    verify=st.booleans(),
    max_new_answers_per_agent=st.none() | st.integers(1, 3),
    max_new_answers_global=st.none() | st.integers(1, 5),
    consensus=st.sampled_from([0.0, 0.5, 0.67, 1.0]),
    max_debates=st.integers(0, 2),
)


class Coordination(RuleBasedStateMachine):
    """The orchestrator's side, played by hypothesis: it answers actions with facts, and lies now and then."""

    first: State
    state: State

    @initialize(agents=st.integers(1, 4), rules=RULES)
    def begin(self, agents: int, rules: Rules) -> None:
        self.first = self.state = start([f"agent{n + 1}" for n in range(agents)], rules)
        self.told: list[Fact] = []
        self.votes: dict[str, str] = {}
        self.passed: set[str] = set()
        self.looking: set[str] = set()
        self.to_verify: list[str] = []
        self.to_exclude: list[str] = []
        self.end: Select | Finish | None = None

    def tell(self, fact: Fact) -> tuple[Action, ...]:
        before = self.state
        self.told.append(fact)
        self.state, actions = advance(before, fact)
        if before.ended:
            assert (self.state, actions) == (before, ())
        for action in actions:
            assert self.end is None, "nothing is done after the end"
            match action:
                case StartLook():
                    assert action.answers == self.state.latest
                    assert action.may_answer == may_answer(self.state, action.agent)
                    self.looking.add(action.agent)
                case StartVerify():
                    self.to_verify.append(action.answer)
                case Exclude():
                    self.to_exclude.append(action.agent)
                case Interrupt():
                    assert action.agent in self.looking, "only what is under way can be dropped"
                    assert not may_answer(self.state, action.agent)
                case Notify():
                    assert action.agent in self.looking
                    assert action.answers == self.state.latest
                case Debate():
                    assert dict(action.votes) == self.votes
                    assert action.round == self.state.debates <= self.state.rules.max_debates
                    assert action.share < self.state.rules.consensus
                    self.votes.clear()
                case Select() | Finish():
                    self.end = action
        return actions

    @property
    def labels(self) -> list[str]:
        return [m.label for m in self.state.members]

    # -- honest agents

    @rule(agent=AGENTS)
    def ready(self, agent: str) -> None:
        self.tell(AgentReady(agent=agent))

    @precondition(lambda self: self.looking and not self.state.ended)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        agent = data.draw(st.sampled_from(sorted(self.looking)))
        allowed = may_answer(self.state, agent)
        before = self.state.latest
        answer = next_answer(self.state, agent)
        self.tell(AnswerGiven(agent=agent, answer=answer, text="", snapshot=""))
        if allowed:
            assert answer in self.state.latest
            self.votes.clear()
        else:
            assert self.state.latest == before

    @precondition(lambda self: self.looking and self.state.latest and not self.state.ended)
    @rule(data=st.data())
    def vote(self, data: st.DataObject) -> None:
        agent = data.draw(st.sampled_from(sorted(self.looking)))
        target = owner(data.draw(st.sampled_from(self.state.latest)))
        seen = tuple(data.draw(st.permutations(self.state.latest)))
        self.looking.discard(agent)
        self.votes[agent] = target
        self.tell(VoteCast(agent=agent, for_agent=target, reason="", seen=seen))

    @precondition(lambda self: self.to_verify)
    @rule(ok=st.booleans())
    def verified(self, ok: bool) -> None:
        answer = self.to_verify.pop(0)
        if ok:
            self.passed.add(answer)
        self.tell(Verified(answer=answer, ok=ok, summary=""))

    # -- bad luck and bad manners

    @precondition(lambda self: self.looking and not self.state.ended)
    @rule(data=st.data(), seen=st.lists(IDS, max_size=4))
    def stale_vote(self, data: st.DataObject, seen: list[str]) -> None:
        agent = data.draw(st.sampled_from(sorted(self.looking)))
        if set(seen) == set(self.state.latest):
            seen = [*seen, "agent9.9"]
        actions = self.tell(VoteCast(agent=agent, for_agent=agent, reason="", seen=tuple(seen)))
        assert [type(a) for a in actions] == [StartLook], "an unseen answer sends the voter back"

    @precondition(lambda self: self.looking and not self.state.ended)
    @rule(data=st.data(), fatal=st.booleans())
    def error(self, data: st.DataObject, fatal: bool) -> None:
        agent = data.draw(st.sampled_from(sorted(self.looking)))
        actions = self.tell(LookFailed(agent=agent, why="", fatal=fatal))
        if any(isinstance(a, Exclude) for a in actions):
            self.looking.discard(agent)

    @precondition(lambda self: self.to_exclude)
    @rule()
    def excluded(self) -> None:
        self._out(self.to_exclude.pop(0))

    @rule(agent=AGENTS)
    def container_died(self, agent: str) -> None:
        self._out(agent)

    def _out(self, agent: str) -> None:
        if not self.state.ended:
            self.votes.pop(agent, None)
        self.looking.discard(agent)
        self.tell(AgentExcluded(agent=agent, why=""))

    @rule(agent=AGENTS, answer=IDS, seen=st.lists(IDS, max_size=3))
    def garbage(self, agent: str, answer: str, seen: list[str]) -> None:
        """Facts of agents that are not looking are not facts."""
        if agent in self.looking:
            return
        before = self.state
        self.tell(AnswerGiven(agent=agent, answer=answer, text="", snapshot=""))
        self.tell(VoteCast(agent=agent, for_agent=owner(answer), reason="", seen=tuple(seen)))
        assert self.state == before

    @rule(stop=st.sampled_from([TimeUp(), BudgetOut(), UserStop()]))
    def cut_short(self, stop: TimeUp | BudgetOut | UserStop) -> None:
        self.tell(stop)
        assert self.state.ended

    # -- laws

    @invariant()
    def counts_only_valid_votes(self) -> None:
        """The votes that count are exactly the model's: cast by live agents, on the latest set."""
        assert {m.label: m.vote for m in self.state.members if m.vote} == self.votes or self.state.ended

    @invariant()
    def waits_for_somebody(self) -> None:
        """Until the end there is an agent that may start or looks, or a verdict or exclusion on its way."""
        starting = any(m.status == "starting" for m in self.state.members)
        assert self.state.ended or starting or self.looking or self.to_verify or self.to_exclude

    @invariant()
    def the_winner_has_most_votes(self) -> None:
        if not isinstance(self.end, Select):
            return
        count = Counter(self.votes.values())
        best = max((count[owner(a)] for a in self.state.latest), default=0)
        top = [a for a in self.state.latest if count[owner(a)] == best]
        assert self.end.answer == next((a for a in top if a in self.passed), top[0])
        assert dict(self.end.votes) == dict(count)

    def teardown(self) -> None:
        """However it went: replay gives the same state, and the run can be ended: by honest agents alone, and by the clock."""
        if not hasattr(self, "state"):
            return
        assert replay(self.first, self.told) == self.state
        self._ends_without_a_clock()
        self.tell(TimeUp())
        assert self.state.ended
        assert isinstance(self.end, Select) == bool(self.state.latest)

    def _ends_without_a_clock(self) -> None:
        """From here on everybody does its job: then no deadline is needed. The state is a value, so nothing is spoilt."""
        state = self.state
        todo: list[Fact] = [AgentReady(agent=m.label) for m in state.members if m.status == "starting"]
        todo += [AgentExcluded(agent=agent, why="") for agent in self.to_exclude]
        todo += [Verified(answer=answer, ok=True, summary="") for answer in self.to_verify]
        looking = dict.fromkeys(self.looking, state.latest)
        for _ in range(100):
            if state.ended:
                return
            if not todo:
                agent = min(looking)
                del looking[agent]
                todo.append(
                    VoteCast(agent=agent, for_agent=owner(state.latest[0]), reason="", seen=state.latest)
                    if state.latest
                    else AnswerGiven(agent=agent, answer=next_answer(state, agent), text="", snapshot="")
                )
            state, actions = advance(state, todo.pop(0))
            for action in actions:
                match action:
                    case StartLook():
                        looking[action.agent] = action.answers
                    case StartVerify():
                        todo.append(Verified(answer=action.answer, ok=True, summary=""))
                    case Exclude():
                        todo.append(AgentExcluded(agent=action.agent, why=""))
                    case _:
                        pass
        raise AssertionError(f"no end: {state}")


TestCoordination = Coordination.TestCase


class TestCoordinationLong(Coordination.TestCase):
    """The same laws over ten thousand sequences."""

    settings = settings(max_examples=10_000, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    pytestmark: ClassVar = [pytest.mark.slow]


@given(
    answered=st.lists(st.booleans(), min_size=1, max_size=5),
    votes=st.lists(st.integers(0, 4), max_size=6),
    data=st.data(),
)
def test_the_tally_ignores_the_order_of_votes(answered: list[bool], votes: list[int], data: st.DataObject) -> None:
    """Any order of the same votes gives the same choice."""
    candidates = [Candidate(agent=f"agent{n}", answer=f"agent{n}.1", passed=ok) for n, ok in enumerate(answered)]
    cast = [f"agent{n % len(candidates)}" for n in votes]
    assert choose(candidates, cast) == choose(candidates, data.draw(st.permutations(cast)))


def test_agents_that_only_do_their_job_need_no_clock() -> None:
    """Every order in which three agents answer once and then vote ends with a selection."""
    labels = ["agent1", "agent2", "agent3"]
    for answering, voting in itertools.product(itertools.permutations(labels), repeat=2):
        state = start(labels)
        for label in labels:
            state, _ = advance(state, AgentReady(agent=label))
        for label in answering:
            state, _ = advance(state, AnswerGiven(agent=label, answer=f"{label}.1", text="", snapshot=""))
        actions: tuple[Action, ...] = ()
        for label in voting:
            state, actions = advance(state, VoteCast(agent=label, for_agent="agent3", reason="", seen=state.latest))
        assert [type(a) for a in actions] == [Select]
