"""Coordination, story by story. The general laws are in tests/property/test_coordination_machine.py."""

from __future__ import annotations

import time

import pytest

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
    start,
)
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


class Story:
    """A run told by its facts; `tell` returns what is to be done."""

    def __init__(self, agents: int, rules: Rules | None = None, *, ready: bool = True) -> None:
        self.state: State = start([f"agent{n + 1}" for n in range(agents)], rules)
        if ready:
            for member in self.state.members:
                self.tell(AgentReady(agent=member.label))

    def tell(self, fact: Fact) -> tuple[Action, ...]:
        self.state, actions = advance(self.state, fact)
        return actions

    def answer(self, agent: str) -> tuple[Action, ...]:
        return self.tell(AnswerGiven(agent=agent, answer=next_answer(self.state, agent), text="", snapshot=""))

    def vote(self, agent: str, target: str, seen: tuple[str, ...] | None = None) -> tuple[Action, ...]:
        return self.tell(VoteCast(agent=agent, for_agent=target, reason="", seen=self.state.latest if seen is None else seen))

    def fail(self, agent: str, *, fatal: bool = False) -> tuple[Action, ...]:
        return self.tell(LookFailed(agent=agent, why="broken", fatal=fatal))


def verdict(answer: str, *, ok: bool) -> Verified:
    return Verified(answer=answer, ok=ok, summary="pass" if ok else "FAIL 1/1")


def test_all_agents_get_the_task_at_once() -> None:
    """The first looks start when the last container is up, in registration order; a second AgentReady changes nothing."""
    story = Story(2, ready=False)
    assert story.tell(AgentReady(agent="agent2")) == ()
    assert story.tell(AgentReady(agent="agent1")) == tuple(StartLook(agent=a, answers=()) for a in ("agent1", "agent2"))
    assert story.tell(AgentReady(agent="agent2")) == ()


def test_an_agent_that_does_not_start_holds_up_nobody() -> None:
    """It is excluded, and the others begin without it, whether it failed or just went."""
    story = Story(2, ready=False)
    story.tell(AgentReady(agent="agent2"))
    look = StartLook(agent="agent2", answers=())
    assert advance(story.state, AgentExcluded(agent="agent1", why="gone"))[1] == (look,)
    assert story.fail("agent1") == (Exclude(agent="agent1", why="broken"), look)


def test_an_answer_wakes_voters_and_tells_the_busy() -> None:
    """After an answer: its agent looks again, who had voted looks again, who is in mid-look is told."""
    story = Story(3)
    assert story.answer("agent1") == (
        StartLook(agent="agent1", answers=("agent1.1",)),
        Notify(agent="agent2", answers=("agent1.1",)),
        Notify(agent="agent3", answers=("agent1.1",)),
    )
    assert story.vote("agent2", "agent1") == ()
    latest = ("agent1.1", "agent3.1")
    assert story.answer("agent3") == (
        StartLook(agent="agent3", answers=latest),
        Notify(agent="agent1", answers=latest),
        StartLook(agent="agent2", answers=latest),
    )
    assert [m.vote for m in story.state.members] == ["", "", ""]


def test_a_vote_on_an_old_view_does_not_count() -> None:
    """A vote that misses an answer is dropped and its agent looks at the latest set."""
    story = Story(2)
    story.answer("agent1")
    story.answer("agent2")
    again = StartLook(agent="agent2", answers=("agent1.1", "agent2.1"))
    assert story.vote("agent2", "agent1", seen=("agent1.1",)) == (again,)
    assert story.vote("agent2", "agent1", seen=("agent1.1", "agent2.1", "agent2.2")) == (again,)
    assert story.vote("agent2", "agent1", seen=("agent2.1", "agent1.1")) == ()


def test_a_vote_for_nobody_is_dropped() -> None:
    """An unknown label, or an agent without an answer, sends the voter back."""
    story = Story(2)
    story.answer("agent1")
    for target in ("agent2", "agent9", ""):
        assert story.vote("agent1", target) == (StartLook(agent="agent1", answers=("agent1.1",)),)


def test_most_votes_win_when_all_live_agents_have_voted() -> None:
    """Nothing is decided one vote early."""
    story = Story(3)
    story.answer("agent1")
    story.answer("agent2")
    assert story.vote("agent1", "agent2") == ()
    assert story.vote("agent3", "agent2") == ()
    assert story.vote("agent2", "agent1") == (
        Select(agent="agent2", answer="agent2.1", votes=(("agent1", 1), ("agent2", 2)), why="2 of 3 votes"),
    )


def test_a_tie_goes_to_the_verified_answer_then_to_registration_order() -> None:
    """Passing beats failing on a tie; with equal verdicts the first registered wins."""
    for passing, winner in (("agent2", "agent2"), ("", "agent1"), ("both", "agent1")):
        story = Story(2, Rules(verify=True))
        story.answer("agent1")
        story.answer("agent2")
        for agent in ("agent1", "agent2"):
            story.tell(verdict(f"{agent}.1", ok=passing in (agent, "both")))
        story.vote("agent1", "agent1")
        (select,) = story.vote("agent2", "agent2")
        assert isinstance(select, Select)
        assert select.agent == winner


def test_votes_beat_verdicts() -> None:
    """The verify command breaks ties; it does not overrule a majority."""
    story = Story(3, Rules(verify=True))
    story.answer("agent1")
    story.answer("agent2")
    story.tell(verdict("agent1.1", ok=True))
    story.tell(verdict("agent2.1", ok=False))
    story.vote("agent1", "agent1")
    story.vote("agent2", "agent2")
    (select,) = story.vote("agent3", "agent2")
    assert isinstance(select, Select)
    assert select.agent == "agent2"


def test_nothing_is_decided_while_a_verdict_is_missing() -> None:
    """With a verify command, the last vote waits for the last verdict; verdicts on old answers do not help."""
    story = Story(1, Rules(verify=True))
    assert story.answer("agent1") == (StartVerify(answer="agent1.1"),)
    assert story.tell(verdict("base", ok=False)) == ()
    assert story.tell(verdict("agent1.2", ok=True)) == ()
    (select,) = story.tell(verdict("agent1.1", ok=False))
    assert isinstance(select, Select)


def test_one_agent_alone_is_not_asked_to_vote() -> None:
    """Its first answer decides."""
    story = Story(1)
    assert story.answer("agent1") == (Select(agent="agent1", answer="agent1.1", votes=(), why="the only answer"),)


def test_two_failures_in_a_row_exclude_but_not_two_apart() -> None:
    """An answer or a valid vote forgives; a fatal failure does not wait for a second one."""
    story = Story(2)
    assert story.fail("agent1") == (StartLook(agent="agent1", answers=()),)
    story.answer("agent1")
    assert story.fail("agent1") == (StartLook(agent="agent1", answers=("agent1.1",)),)
    assert story.fail("agent1") == (Exclude(agent="agent1", why="broken"),)
    assert story.fail("agent2", fatal=True) == (Exclude(agent="agent2", why="broken"),)


def test_an_agent_that_never_came_up_is_excluded_at_once() -> None:
    """There is no session to look again with."""
    story = Story(2, ready=False)
    assert story.fail("agent1") == (Exclude(agent="agent1", why="broken"),)
    assert story.tell(AgentReady(agent="agent1")) == ()


def test_an_excluded_agents_answer_stays_but_its_vote_does_not() -> None:
    """It cannot change its mind any more, so its vote is not counted; its answer can still win."""
    story = Story(3)
    for agent in ("agent1", "agent2", "agent3"):
        story.answer(agent)
    story.vote("agent1", "agent1")
    story.tell(AgentExcluded(agent="agent1", why="container died"))
    story.vote("agent2", "agent1")
    (select,) = story.vote("agent3", "agent1")
    assert select == Select(agent="agent1", answer="agent1.1", votes=(("agent1", 2),), why="2 of 2 votes")


def test_the_last_live_agent_need_not_vote() -> None:
    """When all others are out, an agent that has answered ends the run: first verified, else first answer."""
    story = Story(2)
    story.answer("agent2")
    story.fail("agent1", fatal=True)
    (select,) = story.tell(AgentExcluded(agent="agent1", why="broken"))
    assert select == Select(agent="agent2", answer="agent2.1", votes=(), why="the only answer")


def test_the_last_live_agent_without_an_answer_goes_on() -> None:
    """It may answer, or vote for the answer that an excluded agent left."""
    story = Story(2)
    story.answer("agent2")
    assert story.tell(AgentExcluded(agent="agent2", why="x")) == ()
    (select,) = story.vote("agent1", "agent2")
    assert isinstance(select, Select)
    assert select.answer == "agent2.1"


def test_time_up_takes_the_best_answer_so_far() -> None:
    """No votes: the first verified, else the first answer; votes that are there count."""
    story = Story(3, Rules(verify=True))
    for agent in ("agent1", "agent2", "agent3"):
        story.answer(agent)
    story.tell(verdict("agent2.1", ok=True))
    (select,) = advance(story.state, TimeUp())[1]
    assert isinstance(select, Select)
    assert (select.agent, select.why) == ("agent2", "time is up: no votes: the first verified answer")
    story.vote("agent1", "agent3")
    (select,) = story.tell(UserStop())
    assert isinstance(select, Select)
    assert select.agent == "agent3"


def test_nobody_answered_is_an_end_not_a_crash() -> None:
    """All out, or time up, without an answer."""
    story = Story(1)
    assert advance(story.state, TimeUp())[1] == (Finish(why="time is up: no answer"),)
    story.fail("agent1", fatal=True)
    assert story.tell(AgentExcluded(agent="agent1", why="wrong key")) == (Finish(why="no answer"),)


def test_caps_on_answers_hold_even_when_two_answer_at_once() -> None:
    """Beyond a cap a look may only vote, and an answer that raced past it is not taken."""
    story = Story(2, Rules(max_new_answers_global=1))
    first = story.answer("agent1")
    assert first[0] == StartLook(agent="agent1", answers=("agent1.1",), may_answer=False)
    stopped = Interrupt(agent="agent2", why="all new answers are used up")
    assert first[1:] == (stopped, StartLook(agent="agent2", answers=("agent1.1",), may_answer=False))
    assert story.answer("agent2") == (StartLook(agent="agent2", answers=("agent1.1",), may_answer=False),)
    assert story.state.latest == ("agent1.1",)
    own = Story(2, Rules(max_new_answers_per_agent=1))
    own.answer("agent1")
    assert not may_answer(own.state, "agent1")
    assert may_answer(own.state, "agent2")
    with pytest.raises(ValueError, match="cap"):
        Rules(max_new_answers_global=0)


def test_facts_that_cannot_be_change_nothing() -> None:
    """After the end, of strangers, with a wrong version, or a second vote: the same state, no action."""
    story = Story(2)
    before = story.state
    for fact in (
        AnswerGiven(agent="agent9", answer="agent9.1", text="", snapshot=""),
        AnswerGiven(agent="agent1", answer="agent1.7", text="", snapshot=""),
        Verified(answer="agent1.1", ok=True, summary=""),
        AgentExcluded(agent="", why=""),
    ):
        assert story.tell(fact) == ()
    assert story.state == before
    story.answer("agent1")
    story.vote("agent1", "agent1")
    voted = story.state
    assert story.vote("agent1", "agent1") == ()
    assert story.state == voted
    story.vote("agent2", "agent1")
    ended = story.state
    assert ended.ended
    for fact in (TimeUp(), AgentReady(agent="agent1"), verdict("agent1.1", ok=True)):
        assert story.tell(fact) == ()
    assert story.state is ended


def test_too_little_agreement_is_debated_and_then_most_votes_win() -> None:
    """Under the share asked for: votes cleared, all look again, at most so often; then the tally as it is, and said."""
    story = Story(3, Rules(consensus=0.67, max_debates=1))
    for agent in ("agent1", "agent2", "agent3"):
        story.answer(agent)
    latest = story.state.latest
    story.vote("agent1", "agent1")
    story.vote("agent2", "agent2")
    cast = tuple((agent, agent) for agent in ("agent1", "agent2", "agent3"))
    assert story.vote("agent3", "agent3") == (
        Debate(round=1, votes=cast, share=0.33),
        *(StartLook(agent=agent, answers=latest) for agent in ("agent1", "agent2", "agent3")),
    )
    assert [m.vote for m in story.state.members] == ["", "", ""]
    for agent in ("agent1", "agent2"):
        story.vote(agent, agent)
    (select,) = story.vote("agent3", "agent2")
    assert select == Select(agent="agent2", answer="agent2.1", votes=(("agent1", 1), ("agent2", 2)), why="2 of 3 votes")


def test_a_consensus_that_never_comes_ends_all_the_same() -> None:
    """After the last debate most votes win, and the shortfall is said."""
    story = Story(2, Rules(consensus=1.0, max_debates=2))
    story.answer("agent1")
    story.answer("agent2")
    for _ in range(2):
        story.vote("agent1", "agent1")
        assert isinstance(story.vote("agent2", "agent2")[0], Debate)
    story.vote("agent1", "agent1")
    (select,) = story.vote("agent2", "agent2")
    assert isinstance(select, Select)
    assert select.why == "1 of 2 votes, tie decided by registration order, short of the consensus asked for"
    with pytest.raises(ValueError, match="share"):
        Rules(consensus=1.5)


def test_a_new_answer_in_a_debate_clears_the_votes_but_not_the_count_of_debates() -> None:
    """Otherwise agents that never agree could talk for ever."""
    story = Story(2, Rules(consensus=1.0))
    story.answer("agent1")
    story.answer("agent2")
    story.vote("agent1", "agent1")
    story.vote("agent2", "agent2")
    assert story.state.debates == 1
    story.vote("agent1", "agent1")
    story.answer("agent2")
    story.vote("agent1", "agent1")
    assert isinstance(story.vote("agent2", "agent2")[0], Select)


def test_the_share_is_of_who_is_left() -> None:
    """An excluded agent neither votes nor counts; one that is left alone is not asked to agree with itself."""
    story = Story(3, Rules(consensus=1.0))
    for agent in ("agent1", "agent2"):
        story.answer(agent)
        story.vote(agent, "agent1")
    story.vote("agent1", "agent1")
    (select,) = story.tell(AgentExcluded(agent="agent3", why="gone"))
    assert isinstance(select, Select)
    alone = Story(2, Rules(consensus=1.0))
    alone.answer("agent1")
    (select,) = alone.tell(AgentExcluded(agent="agent2", why="gone"))
    assert isinstance(select, Select)


def test_a_verdict_is_news_for_who_is_looking() -> None:
    """Those in mid-look are told, without hurry; who has voted is not woken by it."""
    story = Story(3, Rules(verify=True))
    story.answer("agent1")
    story.vote("agent2", "agent1")
    latest = ("agent1.1",)
    assert story.tell(verdict("agent1.1", ok=False)) == (
        Notify(agent="agent1", answers=latest, urgent=False),
        Notify(agent="agent3", answers=latest, urgent=False),
    )


def test_a_spent_budget_ends_like_time() -> None:
    """The best answer so far, or none."""
    assert Story(2).tell(BudgetOut()) == (Finish(why="the budget is used up: no answer"),)
    story = Story(2)
    story.answer("agent2")
    (select,) = story.tell(BudgetOut())
    assert isinstance(select, Select)
    assert (select.agent, select.why) == ("agent2", "the budget is used up: the only answer")


def test_replay_of_a_long_run_is_not_felt() -> None:
    """At least 50,000 facts per second of processor time (best of five, as others use this machine too)."""
    labels = [f"agent{n}" for n in range(1, 4)]
    facts: list[Fact] = [AgentReady(agent=label) for label in labels]
    for version in range(1, 400):
        facts += [AnswerGiven(agent=label, answer=f"{label}.{version}", text="", snapshot="") for label in labels]
        latest = tuple(f"{label}.{version}" for label in labels)
        facts += [VoteCast(agent=label, for_agent="agent1", reason="", seen=latest) for label in labels[:2]]
    best = 0.0
    for _ in range(5):
        state = start(labels)
        began = time.process_time()
        for fact in facts:
            state, _actions = advance(state, fact)
        best = max(best, len(facts) / (time.process_time() - began))
    assert len(state.latest) == 3
    assert best >= 50_000
