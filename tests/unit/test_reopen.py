"""A log that is gone on with: cut where it was torn, numbered on, and never after an end that was its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from massgen.coordination.relive import read_past
from massgen.coordination.resume import config_changes, unfinished
from massgen.errors import ConfigError
from massgen.events.codec import LogError
from massgen.events.log import FILE, EventLog, reopen
from massgen.events.replay import read
from massgen.events.types import AgentReady, Event, Notice, RunFinished, RunResumed


def written(folder: Path, *events: Event) -> Path:
    """A log with these events."""
    with EventLog(folder, "r") as log:
        for event in events:
            log.emit(event)
    return folder / FILE


def test_a_log_that_is_torn_at_any_byte_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    """Every cut: what was whole is there, the rest is gone from the file, and the next event has the next number."""
    path = written(tmp_path, *(Notice(text=f"{n} é") for n in range(3)))
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        lines = whole[:cut].count(b"\n")
        log, past = reopen(tmp_path, "r")
        with log:
            log.emit(Notice(text="after"))
        assert [e.event for e in past] == [Notice(text=f"{n} é") for n in range(lines)], cut
        assert [e.event for e in read(path)] == [*(e.event for e in past), Notice(text="after")], cut
        assert [e.seq for e in read(path)] == list(range(1, lines + 2)), cut


def test_zeros_that_a_power_cut_left_are_no_event(tmp_path: Path) -> None:
    """Blocks that were allocated and never written."""
    path = written(tmp_path, Notice(text="a"))
    path.write_bytes(path.read_bytes() + b"\0" * 4096)
    log, past = reopen(tmp_path, "r")
    log.close()
    assert len(past) == 1
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(("outcome", "goes_on"), [("applied", False), ("stopped", False), ("crashed", True), ("sandbox", True)])
def test_only_an_end_that_blames_the_machine_is_taken_back(tmp_path: Path, outcome: str, *, goes_on: bool) -> None:
    """And only by saying so: no other event may follow it."""
    path = written(tmp_path, AgentReady(agent="agent1"), RunFinished(exit_code=1, outcome=outcome))
    assert unfinished(tmp_path) is goes_on
    if not goes_on:
        with pytest.raises(LogError, match="has ended"):
            reopen(tmp_path, "r")
        return
    log, past = reopen(tmp_path, "r")
    with log:
        log.emit(RunResumed(after=outcome, events=len(past)))
    assert unfinished(tmp_path)
    assert (read_past(read(path)).ended, read_past(past).ended) == ("", outcome)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    log, _ = reopen(tmp_path, "r")
    with log:
        log.emit(Notice(text="as if nothing had been"))
    with pytest.raises(LogError, match="after RunFinished"):
        list(read(path))


def test_a_log_that_is_damaged_inside_is_not_gone_on_with(tmp_path: Path) -> None:
    """A hole would replay to a state that never was; the file stays as it is."""
    path = written(tmp_path, Notice(text="a"), Notice(text="b"), Notice(text="c"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(LogError, match="line 2"):
        reopen(tmp_path, "r")
    assert path.read_bytes() == lines[0] + lines[2]


CONFIG = """
agents:
- {id: one, backend: {type: openai, model: gpt-5}, system_message: ''}
- {id: two, backend: {type: claude, model: c, context_paths: [{path: /a, permission: read}]}, system_message: ''}
orchestrator: {verify: pytest, consensus: 0.0}
timeout_settings: {orchestrator_timeout_seconds: 1800}
"""


@pytest.mark.parametrize(
    ("old", "new", "decides"),
    [
        ("gpt-5", "gpt-6", False),
        ("1800", "60", False),
        ("pytest", "pytest -x", True),
        ("consensus: 0.0", "consensus: 0.5", True),
        ("id: two", "id: three", True),
        ("path: /a", "path: /b", True),
    ],
)
def test_a_change_of_what_the_log_depends_on_is_refused_and_any_other_told(old: str, new: str, *, decides: bool) -> None:
    """By key, whichever way the texts differ."""
    now = CONFIG.replace(old, new)
    assert config_changes(CONFIG, CONFIG) == ()
    if decides:
        with pytest.raises(ConfigError, match="its log would mean something else"):
            config_changes(CONFIG, now)
    else:
        assert len(config_changes(CONFIG, now)) == 1
