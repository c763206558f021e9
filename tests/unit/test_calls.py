"""Model calls that fail: what is waited for, for how long, what everybody learns of it, and what is shown meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from massgen.agent.calls import LONGEST_NAMED_S, LONGEST_WAIT_S, TRIES, UNREACHED_S, Caller
from massgen.agent.circuit import FIRST_PAUSE_S, OPENS_AFTER, OUTAGE_S, PROBE_S, Circuit, Circuits
from massgen.config.model import AgentConfig, BackendConfig, Secret
from massgen.errors import (
    ContextOverflow,
    ModelDeclined,
    ModelError,
    ModelRefusedKey,
    ModelUnavailable,
    ModelUnreachable,
    RateLimited,
)
from massgen.events.types import Cited, Event, ModelAsked, ModelCalled, ModelFailed, ModelHeld, Streamed, TextSaid
from massgen.messages import Citation, Message, Piece, Reply, Request, Usage
from massgen.models.translate import retry_after_s

ASK = Request(messages=(Message(role="user", text="hello"),))
DONE = Reply(text="Done.", usage=Usage(input_tokens=3, output_tokens=1))
DOWN = ModelUnavailable("down")


class Clock:
    """Time that passes only in waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


class Model:
    """Says what it was given, in pieces if that is a list of them."""

    name = "m"
    key_source = ""

    def __init__(self, *said: Reply | Exception | Callable[[Callable[[Piece], None]], Reply]) -> None:
        self.said = list(said)
        self.asked = 0

    async def complete(self, request: Request, *, on_piece: Any = None) -> Reply:
        self.asked += 1
        said = self.said.pop(0)
        if isinstance(said, Exception):
            raise said
        return said(on_piece) if callable(said) else said

    async def aclose(self) -> None:
        return


class Calls:
    """A caller with a clock of its own and everything that it said."""

    def __init__(self, *said: Any, deadline: float = math.inf, circuit: Circuit | None = None, chance: float = 0.0) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.model = Model(*said)
        self.circuit = circuit or Circuit(clock=self.clock)
        self.caller = Caller(
            label="agent1",
            model=self.model,
            emit=self.events.append,
            deadline=deadline,
            circuit=self.circuit,
            sleep=self.clock.sleep,
            chance=lambda: chance,
            clock=self.clock,
        )

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def test_a_provider_that_names_a_wait_is_not_asked_earlier() -> None:
    """Also beyond the two minutes at which SDKs give up, and more often than our own tries."""
    slow = [RateLimited("slow", retry_after_s=200.0)] * (TRIES + 3)
    calls = Calls(*slow, DONE)
    assert await calls.caller.complete(ASK) == DONE
    assert calls.clock.waits == [200.0] * (TRIES + 3)
    assert [event.retry_s for event in calls.of(ModelFailed)] == calls.clock.waits


async def test_no_wait_goes_past_the_deadline() -> None:
    """A wait that would is not begun: the agent fails at once, and is told what was asked and what was left."""
    calls = Calls(RateLimited("slow", retry_after_s=200.0), deadline=anyio.current_time() + 50)
    with pytest.raises(RateLimited, match=r"asked again in 200 s, and this agent waits (49|50) s at most"):
        await calls.caller.complete(ASK)
    assert calls.clock.waits == []
    (failed,) = calls.of(ModelFailed)
    assert failed.retry_s is None
    calls = Calls(RateLimited("slow", retry_after_s=200.0))
    with anyio.move_on_after(20), pytest.raises(RateLimited, match=r"this agent waits (19|20) s at most"):
        await calls.caller.complete(ASK)


async def test_a_provider_that_names_no_time_at_all_is_not_asked_without_end() -> None:
    """Zero seconds each time: the waits grow like our own. A day is not waited for, with or without a deadline."""
    calls = Calls(*[RateLimited("slow", retry_after_s=0.0)] * 9, DONE)
    assert await calls.caller.complete(ASK) == DONE
    assert calls.clock.waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, *[LONGEST_WAIT_S] * 3]
    calls = Calls(RateLimited("come back tomorrow", retry_after_s=86400.0))
    for _ in range(2):
        with pytest.raises(ModelError, match=r"86400 s.*(waits 600 s at most|may wait)"):
            await calls.caller.complete(ASK)
    assert (calls.clock.waits, calls.model.asked) == ([], 1)
    assert Calls().caller._left_s() == LONGEST_NAMED_S


async def test_a_wrong_address_costs_seconds_and_an_outage_minutes() -> None:
    """Where nobody ever was the error comes soon, is a lasting one, and keeps no other agent from finding out for itself.

    A server that was there may be started again: its absence is trouble like any other.
    """
    nobody = ModelUnreachable("nothing listens there")
    calls = Calls(*[nobody] * 9, chance=1.0)
    for _ in range(2):
        with pytest.raises(ModelUnreachable) as caught:
            await calls.caller.complete(ASK)
    assert caught.value.lasting
    assert calls.clock.waits == [0.5, 1.0] * 2
    assert sum(calls.clock.waits[:2]) <= UNREACHED_S
    assert calls.circuit.hold_s() == 0
    calls = Calls(DONE, *[nobody] * TRIES)
    await calls.caller.complete(ASK)
    with pytest.raises(ModelUnavailable) as gone:
        await calls.caller.complete(ASK)
    assert not gone.value.lasting
    assert (len(calls.clock.waits), calls.circuit.hold_s()) == (TRIES - 1, FIRST_PAUSE_S)


async def test_a_team_waits_for_a_provider_that_stays_down() -> None:
    """Those who would wait for the end of a long outage fail at once; whoever comes when the pause is over may try."""
    calls = Calls(DONE)
    began = calls.clock.now
    while calls.clock.now + calls.circuit.hold_s() - began <= OUTAGE_S:
        calls.clock.now += calls.circuit.hold_s()
        calls.circuit.failed(DOWN)
    with pytest.raises(ModelUnavailable, match="longer than this agent may wait"):
        await calls.caller.complete(ASK)
    assert calls.model.asked == 0
    calls.clock.now += calls.circuit.hold_s()
    assert await calls.caller.complete(ASK) == DONE


async def test_our_own_waits_grow_and_end() -> None:
    """Half a second and doubled, scattered by up to a half, five tries; an error that cannot pass is not tried again."""
    calls = Calls(*[DOWN] * TRIES, chance=1.0)
    with pytest.raises(ModelUnavailable, match="down"):
        await calls.caller.complete(ASK)
    assert calls.clock.waits == [0.5, 1.0, 2.0, 4.0]
    assert Calls(chance=0.0).caller._wait_s(DOWN, 2) == 0.5
    assert Calls(chance=1.0).caller._wait_s(RateLimited("slow", retry_after_s=30.0), 1) == 31.0
    assert Calls().caller._wait_s(RateLimited("slow", retry_after_s=0.0), 1) == 0.5
    calls = Calls(ModelRefusedKey("no"))
    with pytest.raises(ModelRefusedKey):
        await calls.caller.complete(ASK)
    assert calls.model.asked == 1


async def test_a_provider_that_fails_everybody_is_left_alone() -> None:
    """After five failures in a row, of whichever agents, nobody asks for ten seconds; then one does, and all go on."""
    clock = Clock()
    circuit = Circuit(clock=clock)
    for _ in range(OPENS_AFTER - 1):
        circuit.failed(DOWN)
    assert circuit.hold_s() == 0
    circuit.failed(DOWN)
    assert circuit.hold_s() == FIRST_PAUSE_S
    assert "5 times in a row" in circuit.why
    clock.now += FIRST_PAUSE_S
    assert circuit.hold_s() == 0, "the first one may try"
    assert circuit.hold_s() == PROBE_S, "the others wait for what it finds"
    circuit.failed(DOWN)
    assert circuit.hold_s() == 2 * FIRST_PAUSE_S, "the pause grows"
    clock.now += 2 * FIRST_PAUSE_S
    assert circuit.hold_s() == 0
    circuit.answered()
    assert circuit.hold_s() == 0
    assert circuit.hold_s() == 0, "closed again for all"


async def test_those_who_wait_for_a_probe_go_on_when_it_is_answered() -> None:
    """And when the one who probed gave up."""
    for end in (Circuit.answered, Circuit.left):
        clock = Clock()
        circuit = Circuit(clock=clock)
        for _ in range(OPENS_AFTER):
            circuit.failed(DOWN)
        clock.now += FIRST_PAUSE_S
        assert circuit.hold_s() == 0
        done = anyio.Event()

        async def wait(circuit: Circuit = circuit, done: anyio.Event = done) -> None:
            await circuit.changed(within_s=60)
            done.set()

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                end(circuit)
                await done.wait()
        assert circuit.hold_s() == 0


async def test_an_open_circuit_is_said_and_does_not_outlast_the_deadline() -> None:
    """No request is made; the events say why and for how long, and the error is a typed one."""
    circuit = Circuit(first_pause_s=0.01)
    calls = Calls(DONE, circuit=circuit)
    for _ in range(OPENS_AFTER):
        circuit.failed(DOWN)
    assert await calls.caller.complete(ASK) == DONE
    (held,) = calls.of(ModelHeld)
    assert "down" in held.why
    late = Calls(deadline=anyio.current_time() + 5)
    for _ in range(OPENS_AFTER):
        late.circuit.failed(DOWN)
    with pytest.raises(ModelUnavailable, match="longer than this agent may wait"):
        await late.caller.complete(ASK)
    assert late.model.asked == 0


async def test_a_limit_of_a_key_holds_for_all_who_share_it() -> None:
    """One agent was told to wait: the others on the same key do not ask meanwhile. A refusal closes nothing."""
    clock = Clock()
    circuit = Circuit(clock=clock)
    circuit.failed(RateLimited("slow", retry_after_s=7.0))
    assert circuit.hold_s() == 7.0
    assert not circuit.open
    clock.now += 7.0
    for error in (ModelRefusedKey("no"), ContextOverflow("long"), ModelError("bad")):
        for _ in range(OPENS_AFTER):
            circuit.failed(error)
    assert circuit.hold_s() == 0


def test_agents_share_a_circuit_with_provider_and_key_only() -> None:
    """Another key or another server is another circuit; another model of the same server is not."""

    def agent(kind: Any, model: str, key: str, url: str = "") -> AgentConfig:
        backend = BackendConfig(type=kind, model=model, base_url=url, api_key=Secret(key))
        return AgentConfig(id=f"{model}-{key}", backend=backend)

    circuits = Circuits()
    first = circuits.of(agent("openai", "big", "k1"))
    assert circuits.of(agent("openai", "small", "k1")) is first
    assert circuits.of(agent("openai", "big", "k2")) is not first
    assert circuits.of(agent("openai", "big", "k1", "https://other.example/v1")) is not first
    assert circuits.of(agent("claude", "c", "k1")) is not first


async def test_nobody_watches_a_silent_screen() -> None:
    """A call is told when it begins; what streams in is told in parts, by kind, and all of it."""

    def stream(piece: Callable[[Piece], None]) -> Reply:
        for kind, words in (("reasoning", ["Let ", "me ", "see."]), ("text", ["Hel", "lo"]), ("call", ["shell ", '{"a":1}'])):
            for word in words:
                piece(Piece(kind=kind, text=word))  # type: ignore[arg-type]
        return DONE

    calls = Calls(stream)
    await calls.caller.complete(ASK)
    assert isinstance(calls.events[0], ModelAsked)
    told = calls.of(Streamed)
    assert told[0].text.startswith("Let "), "the first words come first, how many together is the clock's matter"
    for kind, text in (("reasoning", "Let me see."), ("text", "Hello"), ("call", 'shell {"a":1}')):
        assert "".join(event.text for event in told if event.kind == kind) == text
    assert calls.events.index(told[-1]) < calls.events.index(calls.of(ModelCalled)[0])


async def test_what_came_before_a_break_is_shown_before_the_failure() -> None:
    """So that whoever shows it knows what is void."""

    def breaks(piece: Callable[[Piece], None]) -> Reply:
        piece(Piece(kind="text", text="Hel"))
        piece(Piece(kind="text", text="lo"))
        raise ModelUnavailable("broke")

    calls = Calls(breaks, DONE)
    await calls.caller.complete(ASK)
    kinds = [type(event).__name__ for event in calls.events if not isinstance(event, ModelCalled)]
    assert kinds == ["ModelAsked", "Streamed", "Streamed", "ModelFailed", "ModelAsked", "TextSaid"]


async def test_the_sources_of_what_was_said_are_in_the_log() -> None:
    """With their titles, after the words."""
    said = Reply(text="It is so.", citations=(Citation(url="https://example.org/a", title="A page"),))
    calls = Calls(said)
    await calls.caller.complete(ASK)
    assert calls.events[-2:] == [
        TextSaid(agent="agent1", text="It is so."),
        Cited(agent="agent1", sources=({"url": "https://example.org/a", "title": "A page"},)),
    ]


async def test_a_model_that_will_not_answer_is_not_taken_for_one_that_forgot_to() -> None:
    """A refusal is an error of its own kind, is not asked again, and is in the count of tokens."""
    calls = Calls(Reply(text="I cannot help with that.", stop="refusal", usage=Usage(input_tokens=9)))
    with pytest.raises(ModelDeclined, match="cannot help"):
        await calls.caller.complete(ASK)
    (called,) = calls.of(ModelCalled)
    assert (called.usage.input_tokens, calls.model.asked) == (9, 1)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 2015 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "inf"}, None),
    ],
)
def test_a_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds, a date; what is none of them is no wait, and never a crash."""
    assert retry_after_s(headers) == seconds
