"""The event log: what was written reads back exactly, whenever the process died."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from massgen.events import codec
from massgen.events.codec import Envelope, LogError, decode, encode, event_types
from massgen.events.log import FILE, EventLog
from massgen.events.replay import facts, read
from massgen.events.types import AgentReady, AnswerGiven, Event, Notice, RunFinished, Streamed, TextSaid, TimeUp
from massgen.messages import Usage

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=3,
)
# File names that are not UTF-8 arrive as lone low surrogates.
TEXT = st.text(st.characters() | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=("Cs",)), max_size=20)


def strategy(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field, from its type alone: a new event type is covered without a line here."""
    args = get_args(hint)
    plain = {str: TEXT, int: st.integers(), bool: st.booleans(), float: st.floats(allow_nan=False, allow_infinity=False)}
    if hint in plain:
        return plain[hint]
    if hint is Any:
        return JSON
    if hint is Usage:
        return st.builds(Usage, **{f.name: st.integers(0) for f in dataclasses.fields(Usage)})
    match get_origin(hint):
        case kind if kind is Literal:
            return st.sampled_from(args)
        case kind if kind is tuple:
            return st.lists(strategy(args[0]), max_size=2).map(tuple)
        case kind if kind is dict:
            return st.dictionaries(TEXT, strategy(args[1]), max_size=2)
        case kind if kind is UnionType:
            return st.one_of(*(st.none() if arg is type(None) else strategy(arg) for arg in args))
    raise AssertionError(f"no strategy for {hint}")


def events_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: strategy(hints[field.name]) for field in dataclasses.fields(kind)})


@pytest.mark.parametrize("kind", event_types().values(), ids=event_types().keys())
def test_an_event_is_not_changed_by_being_written(kind: type[Event]) -> None:
    """decode(encode(e)) == e for every event type, whatever its fields hold."""

    # The nested strategies of RunStarted are slow to draw on a busy machine; that is no finding.
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(event=events_of(kind), seq=st.integers(1))
    def roundtrip(event: Event, seq: int) -> None:
        envelope = Envelope(seq=seq, ts=NOW.isoformat(), run_id="r", event=event)
        line = encode(envelope)
        assert decode(line) == envelope
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")

    roundtrip()


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path, "r1", clock=lambda: NOW)


def test_a_killed_run_leaves_a_readable_prefix(log: EventLog, tmp_path: Path) -> None:
    """Cut at every byte, the log reads as the events whose lines are complete, never as an error."""
    events: list[Event] = [
        AgentReady(agent="agent1"),
        TextSaid(agent="agent1", text="ü\n\udc80"),
        AnswerGiven(agent="agent1", answer="agent1.1", text="a", snapshot="s"),
        RunFinished(exit_code=0, outcome="answered"),
    ]
    with log:
        for event in events:
            log.emit(event)
    raw = log.path.read_bytes()
    torn = tmp_path / "torn.jsonl"
    for size in range(len(raw) + 1):
        torn.write_bytes(raw[:size])
        assert [e.event for e in read(torn)] == events[: raw[:size].count(b"\n")]


def test_events_after_the_end_are_refused(log: EventLog) -> None:
    """Exactly one terminal event, and it is the last: on writing and on reading."""
    with log:
        log.emit(RunFinished(exit_code=0, outcome="answered"))
        with pytest.raises(LogError, match="ends once"):
            log.emit(TimeUp())
    line = json.loads(log.path.read_text())
    log.path.write_text("".join(json.dumps(line | {"seq": n}) + "\n" for n in (1, 2)))
    with pytest.raises(LogError, match="line 2: an event after RunFinished"):
        list(read(log.path))


def test_readers_never_see_what_the_file_does_not_have(tmp_path: Path) -> None:
    """A reader is called after the write, in order, with the same envelope that reads back."""
    seen: list[Envelope] = []

    def reader(envelope: Envelope) -> None:
        seen.append(envelope)
        assert list(read(tmp_path / FILE)) == seen

    with EventLog(tmp_path, "r1", readers=[reader], clock=lambda: NOW) as log:
        for number in range(3):
            log.emit(AgentReady(agent=f"agent{number}"))
    assert [e.seq for e in seen] == [1, 2, 3]
    assert seen[0].ts == "2026-11-21T12:30:00.000000+00:00"


def test_a_broken_display_does_not_end_the_run(tmp_path: Path) -> None:
    """A reader that raises is dropped and named; the others go on."""
    seen: list[Event] = []

    def broken(_envelope: Envelope) -> None:
        raise BrokenPipeError("gone")

    with EventLog(tmp_path, "r1", readers=[broken, lambda e: seen.append(e.event)], clock=lambda: NOW) as log:
        log.emit(AgentReady(agent="agent1"))
        log.emit(AgentReady(agent="agent2"))
    kinds = [type(e) for e in seen]
    assert kinds == [AgentReady, Notice, AgentReady]
    assert "gone" in str(seen[1])


def test_a_second_run_cannot_write_into_a_log(log: EventLog, tmp_path: Path) -> None:
    """Opening an existing log is an error, not an append."""
    with log, pytest.raises(LogError, match="exists"):
        EventLog(tmp_path, "r2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 2}, "version 2"),
        ({"type": "Nonsense"}, "unknown event type 'Nonsense'"),
        ({"extra": 1}, "no field 'extra'"),
        ({"agent": 1}, r"AgentReady.agent is '1', not of type str"),
        ({"seq": True}, "seq is"),
        ({"ts": None}, "ts is"),
    ],
)
def test_a_line_of_another_contract_is_named_not_guessed(change: dict[str, Any], message: str) -> None:
    """Unknown version, type or field, or a wrong value: an error that says which."""
    row = json.loads(encode(Envelope(seq=1, ts="t", run_id="r", event=AgentReady(agent="agent1"))))
    with pytest.raises(LogError, match=message):
        decode(json.dumps(row | change).encode())
    with pytest.raises(LogError, match="AgentReady lacks 'agent'"):
        decode(json.dumps({k: v for k, v in row.items() if k != "agent"}).encode())


def test_a_log_with_a_hole_is_not_replayed(log: EventLog) -> None:
    """Replaying what is left would give a state that never was."""
    with log:
        for number in range(3):
            log.emit(AgentReady(agent=f"agent{number}"))
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(lines[0] + lines[2])
    with pytest.raises(LogError, match="line 2: event 3 where 2 belongs"):
        list(read(log.path))


def test_values_that_would_read_back_differently_are_not_written() -> None:
    """A NaN, a tuple inside free JSON, or a foreign class is refused before a byte is on the disk."""
    for bad in (float("nan"), (1,), object()):
        event = event_types()["RunStarted"](prompt="", agents=({"x": bad},), write_mode="never", context=(), image="")
        with pytest.raises(LogError):
            encode(Envelope(seq=1, ts="t", run_id="r", event=event))

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Foreign(Event):
        pass

    with pytest.raises(LogError, match="not an event type"):
        encode(Envelope(seq=1, ts="t", run_id="r", event=Foreign()))


def test_facts_are_what_coordination_was_told(log: EventLog) -> None:
    """Facts come out in order, without what is only for people."""
    told: list[Event] = [AgentReady(agent="agent1"), TextSaid(agent="agent1", text="x"), TimeUp()]
    with log:
        for event in told:
            log.emit(event)
    assert facts(log.path) == [told[0], told[2]]


def test_what_streams_by_is_told_and_not_kept(tmp_path: Path) -> None:
    """Readers see it under the number of the event before it; the file reads back whole, as if it had not been."""
    seen: list[tuple[int, Event]] = []
    with EventLog(tmp_path, "r", readers=[lambda envelope: seen.append((envelope.seq, envelope.event))]) as log:
        log.emit(AgentReady(agent="agent1"))
        log.emit(Streamed(agent="agent1", kind="text", text="He"))
        log.emit(TimeUp())
    assert [number for number, _ in seen] == [1, 1, 2]
    assert [envelope.event for envelope in read(log.path)] == [AgentReady(agent="agent1"), TimeUp()]


def test_every_event_type_is_known() -> None:
    """The table of events is the module itself, so none can be forgotten."""
    assert len(event_types()) > 20
    assert codec.VERSION == 1
