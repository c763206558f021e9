"""What a run looks like, from a list of events: golden lines, no escape from foreign text, the closing summary."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from massgen.coordination.later import Standing
from massgen.display import costs, summary
from massgen.display.plain import Progress
from massgen.display.story import Story
from massgen.display.text import block, bytes_text, count, duration_text, line
from massgen.events.codec import Envelope
from massgen.events.types import (
    AgentExcluded,
    AnswerGiven,
    Applied,
    Compacted,
    Conflicted,
    Event,
    LeaseGranted,
    LookStarted,
    ModelAsked,
    ModelCalled,
    ModelFailed,
    ModelHeld,
    Notice,
    Presented,
    RepairAttempted,
    RunFinished,
    RunStarted,
    SandboxEnded,
    SandboxStarted,
    Selected,
    Streamed,
    TextSaid,
    ToolFinished,
    ToolStarted,
    Verified,
    VoteCast,
)
from massgen.messages import Usage

FRESH = {"git": "fresh", "git_why": ".env is in its history"}
START = RunStarted(
    prompt="Fix it",
    agents=(
        {"id": "careful", "label": "agent1", "model": "small", "backend": "local"},
        {"id": "bold", "label": "agent2", "model": "small", "backend": "local"},
    ),
    write_mode="apply",
    context=(
        {"path": "/p", "permission": "write", "files": 12, "bytes": 14000, "withheld": 3, "draft": "overlay", **FRESH},
        {"path": "/docs", "permission": "read", "files": 1, "bytes": 10, "withheld": 0, "git": "clean"},
    ),
    image="img:1",
    verify="pytest -q",
)
TEAM: tuple[Event, ...] = (
    START,
    SandboxStarted(agent="agent1", role="agent", container="c", mounts=(), start_s=0.31),
    LookStarted(agent="agent1", answers=()),
    TextSaid(agent="agent1", text="hm"),
    ToolStarted(agent="agent1", call_id="1", name="shell", summary="shell pytest -q"),
    ToolStarted(agent="agent2", call_id="1", name="read_file", summary="read_file a.py"),
    ToolFinished(agent="agent1", call_id="1", name="shell", ok=False, exit_code=1, seconds=0.4, text="1 failed"),
    ToolFinished(agent="agent2", call_id="1", name="read_file", ok=True, seconds=0.01),
    ModelCalled(agent="agent1", model="small", usage=Usage(input_tokens=1200, cached_tokens=200, output_tokens=40), seconds=1.0),
    RepairAttempted(agent="agent2", attempt=1, path="a.py", function="flatten", outcome="fail"),
    Verified(answer="base", ok=False, summary="FAIL 2/4", seconds=0.5),
    AnswerGiven(agent="agent1", answer="agent1.1", text="done", snapshot="s1", files=1, added=2, removed=1),
    VoteCast(agent="agent2", for_agent="agent1", reason="stale", seen=("agent1.1",)),
    AnswerGiven(agent="agent2", answer="agent2.1", text="me too", snapshot="s2"),
    Verified(answer="agent1.1", ok=True, summary="pass", passed=4, seconds=0.5),
    ModelFailed(agent="agent2", error="503", retry_s=0.5),
    VoteCast(agent="agent1", for_agent="agent1", reason="It passes.", seen=("agent1.1", "agent2.1")),
    VoteCast(agent="agent2", for_agent="agent1", reason="", seen=("agent1.1", "agent2.1")),
    Selected(agent="agent1", answer="agent1.1", votes={"agent1": 2}, why="2 of 2 votes"),
    LookStarted(agent="agent1", answers=("agent1.1", "agent2.1"), phase="final"),
    Presented(agent="agent1", text="It is fixed.", snapshot="s3", files=1, added=2, removed=1),
    Verified(answer="final", ok=True, summary="pass", passed=4, seconds=0.5),
    LeaseGranted(agent="agent1", purpose="apply", token_sha256="t", snapshot="s3", paths=("/p",)),
    SandboxEnded(agent="agent1", role="lease", container="c"),
    Applied(purpose="apply", snapshot="s3", undo="s4", files=("/p/a.py",)),
    RunFinished(exit_code=0, outcome="applied", winner="agent1", seconds=25.0),
)

GOLDEN = """\
plan   2 agents · small · img:1 · 2 cpu, 4.0 GiB each · no network
       write /p (apply)   12 files, 13.7 KiB, 3 withheld · overlay, its history replaced by one commit
             git: .env is in its history
       read  /docs   1 file, 10 B · with its history
       verify pytest -q
00:01  careful   container up in 0.3 s
00:06  careful   shell pytest -q   exit 1, 0.4 s
00:07  bold      read_file a.py   0.0 s
00:09  bold      try 1: flatten → fail
00:10  verify    your project as it is   FAIL 2/4   0.5 s
00:11  careful   answer agent1.1   1 file +2 -1
00:12  bold      votes for careful   “stale”
00:13  bold      answer agent2.1   no files
00:14  verify    agent1.1   pass (4 passed)   0.5 s
00:15  bold      model call failed: 503; again in 0.5 s
00:16  careful   votes for careful   “It passes.”
00:17  bold      votes for careful
00:18  careful   wins with agent1.1   2 of 2 votes
00:19  careful   final turn, in a new container
00:20  careful   final answer   1 file +2 -1
00:21  verify    the result   pass (4 passed)   0.5 s
00:22  careful   gets the one write mount, to apply
00:24  written   1 file in your project
"""


def enveloped(events: Iterable[Event]) -> list[Envelope]:
    """One second apart."""
    start = datetime(2026, 11, 21, tzinfo=UTC)
    return [
        Envelope(
            seq=i + 1,
            ts=(start + timedelta(seconds=i)).isoformat(timespec="microseconds"),
            run_id="20261121-1200-otter",
            event=event,
        )
        for i, event in enumerate(events)
    ]


def shown(events: Iterable[Event], *, width: int = 60, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=color, color_system="standard" if color else None, highlight=False, emoji=False
    )
    progress = Progress(console, limits="2 cpu, 4.0 GiB")
    for envelope in enveloped(events):
        progress(envelope)
    return out.getvalue()


def uncoloured(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def told(events: Iterable[Event]) -> Story:
    story = Story()
    for envelope in enveloped(events):
        story.feed(envelope)
    return story


def test_a_run_reads_like_this():
    """The whole of it, byte for byte; outside a terminal lines are never wrapped, whatever the width."""
    assert shown(TEAM) == GOLDEN


def test_colour_changes_no_text():
    """Stripped of colour codes it is the same."""
    assert uncoloured(shown(TEAM, width=200, color=True)) == GOLDEN


def test_a_narrow_terminal_breaks_no_word():
    """What does not fit goes on below its own beginning, so that times and names stay a column of their own.

    A separator where a line ends is left out.
    """
    rows = uncoloured(shown(TEAM, width=60, color=True)).splitlines()
    assert max(map(len, rows)) <= 60
    assert [word for word in " ".join(rows).split() if word != "·"] == [word for word in GOLDEN.split() if word != "·"]
    assert not [row for row in rows if row.strip() == "·" or row.endswith("·")]
    assert {row[: row.index(row.split()[0])] for row in rows if row.startswith(" ")} <= {" " * 7, " " * 13, " " * 17}


def test_a_slow_model_is_not_taken_for_a_dead_one():
    """The first call of a look is told when it begins; one that writes for ten seconds is heard of; waits say why."""
    stream = [Streamed(agent="agent1", kind="reasoning", text=f"and {number} ") for number in range(12)]
    events = [
        START,
        LookStarted(agent="agent1", answers=()),
        ModelAsked(agent="agent1", model="small"),
        *stream,
        ModelHeld(agent="agent1", why="it failed", wait_s=20.0),
        ModelAsked(agent="agent1", model="small"),
        Compacted(agent="agent1", results=2, chars=4096),
    ]
    assert shown(events).splitlines()[5:] == [
        "00:02  careful   asks small",
        "00:12  careful   thinks: …and 9",
        "00:15  careful   waits 20 s: it failed",
        "00:17  careful   made room for its model: 2 old results of tools taken out (4.0 KiB)",
    ]


def test_a_model_that_thinks_in_silence_is_not_taken_for_a_dead_one():
    """It is heard of after ten seconds, then ever less often; not once it answered, or its container is gone."""
    out = io.StringIO()
    progress = Progress(Console(file=out, width=80))
    answered = ModelCalled(agent="agent2", model="small", usage=Usage(), seconds=1.0)
    gone = SandboxEnded(agent="agent1", role="agent", container="c")
    asked = [ModelAsked(agent=agent, model="small") for agent in ("agent2", "agent1")]
    *past, last = enveloped([START, *asked, answered, SandboxEnded(agent="agent1", role="verify", container="v"), gone])
    for envelope in past:
        progress(envelope)
    for seconds in range(200):
        progress.tick((datetime.fromisoformat(past[2].ts) + timedelta(seconds=seconds)).isoformat())
    progress(last)
    progress.tick((datetime.fromisoformat(last.ts) + timedelta(hours=1)).isoformat())
    assert out.getvalue().splitlines()[-5:] == [
        "00:12  careful   thinking 10 s: small",
        "00:22  careful   thinking 20 s: small",
        "00:42  careful   thinking 40 s: small",
        "01:22  careful   thinking 1 min 20 s: small",
        "02:22  careful   thinking 2 min 20 s: small",
    ]


EVIL = "a\x1b]0;title\x07b\x1b[2Jc\nd\re\u202ef\u200bg[bold]h[/bold]\x9b1m\ud800"


def test_foreign_text_cannot_drive_the_terminal_or_forge_a_line():
    """Newlines, escapes, title changes, C1 codes, bidi marks and rich's own markup stay text."""
    out = shown(
        [
            RunStarted(
                prompt=EVIL,
                agents=({"id": "a", "label": "agent1", "model": EVIL, "backend": "x"},),
                write_mode="review",
                context=({"path": f"/{EVIL}", "permission": "read", "files": 1, "bytes": 1, "withheld": 0},),
                image="i",
                verify=EVIL,
            ),
            VoteCast(agent="agent1", for_agent="agent1", reason=EVIL, seen=()),
            ToolStarted(agent="agent1", call_id="1", name=EVIL, summary=EVIL),
            ToolFinished(agent="agent1", call_id="1", name=EVIL, ok=False),
            ModelAsked(agent="agent1", model=EVIL),
            ModelFailed(agent="agent1", error=EVIL),
            ModelHeld(agent="agent1", why=EVIL, wait_s=1.0),
            AgentExcluded(agent="agent1", why=EVIL),
            Verified(answer="agent1.1", ok=False, summary=EVIL),
            Selected(agent="agent1", answer="agent1.1", votes={}, why=EVIL),
            Notice(text=EVIL),
        ],
        width=400,
        color=True,
    )
    plain = uncoloured(out)
    assert not [c for c in plain if c != "\n" and not c.isprintable()]
    assert len(plain.splitlines()) == 11
    assert "[bold]h[/bold]" in plain
    assert all(row.startswith(("plan ", "       ", "00:0", "00:1")) for row in plain.splitlines())


def acts(char: str) -> bool:
    """Control, format, surrogate, separator; a joiner inside an emoji is harmless."""
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char != "\u200d"


@given(st.text())
def test_escaped_text_is_printable_and_one_line_is_one_line(text: str):
    """For every string there is."""
    assert not [c for c in line(text) if acts(c)]
    assert "\n" not in line(text, 20)
    assert cell_len(line(text, 20)) <= 20
    assert not [c for c in block(text) if acts(c) and c not in "\n\t"]
    block(text).encode()


def test_the_summary_says_who_how_what_and_what_next():
    """Winner, votes, verify before and after, files, tokens, time, result, next."""
    assert summary.lines(told(TEAM)) == (
        ("winner", "careful (small)"),
        ("votes", "2 of 2 votes"),
        ("verify", "pass, 4 passed; before: FAIL 2/4"),
        ("files", "1 file +2 -1, written"),
        ("tokens", "1,200 in (200 cached), 40 out, 1 call"),
        ("", "agent    phase         calls  input  cached  output  reasoning  cost"),
        ("", "careful  coordination      1  1,200     200      40          0     ?"),
        ("time", "25 s"),
        ("result", "applied"),
        ("next", "massgen diff · massgen undo"),
    )


def test_what_a_run_took_is_told_by_agent_and_phase():
    """Each call is in one row, the last row is the sum of the others, and an unknown price is not taken for zero."""

    def called(agent: str, cost: float | None, *figures: int) -> ModelCalled:
        used = dict(zip(("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"), figures, strict=True))
        return ModelCalled(agent=agent, model="m", usage=Usage(**used), seconds=1.0, cost_usd=cost)

    story = told(
        [
            START,
            LookStarted(agent="agent1", answers=()),
            called("agent1", 0.5, 1000, 100, 20, 5),
            called("agent1", 0.25, 2000, 200, 30, 0),
            called("agent2", None, 7, 0, 3, 0),
            LookStarted(agent="agent1", answers=(), phase="final"),
            called("agent1", 0.125, 4000, 4000, 1, 1),
            LookStarted(agent="agent2", answers=()),
            called("agent2", 0.0, 1, 0, 1, 0),
        ]
    )
    assert costs.table(story) == (
        "agent    phase         calls  input  cached  output  reasoning         cost",
        "careful  coordination      2  3,000     300      50          5      $0.7500",
        "bold     coordination      2      8       0       4          0       $0 + ?",
        "careful  final             1  4,000   4,000       1          1      $0.1250",
        "all                        5  7,008   4,300      55          6  $0.8750 + ?",
    )
    rows = costs.plain(story)
    assert sum(row["input_tokens"] for row in rows) == story.all_spent.usage.input_tokens == 7008
    assert [row["cost_usd"] for row in rows] == [0.75, 0.0, 0.125]
    assert costs.table(told([START])) == ()


@pytest.mark.parametrize(
    ("last", "word", "part"),
    [
        ([RunFinished(exit_code=0, outcome="ready")], "next", "massgen apply"),
        ([RunFinished(exit_code=0, outcome="ready")], "files", "not written"),
        ([Conflicted(paths=("/p/a.py",)), RunFinished(exit_code=5, outcome="conflict", message="changed")], "result", "/p/a.py"),
        ([RunFinished(exit_code=124, outcome="timeout", message="time was up")], "result", "timeout: time was up"),
        ([], "result", "did not end properly"),
    ],
)
def test_a_result_that_was_not_written_says_so(last: list[Event], word: str, part: str):
    """And what to type."""
    rows = dict(summary.lines(told([*TEAM[:-5], *last])))
    assert part in rows[word], rows


@pytest.mark.parametrize(
    ("standing", "files", "then"),
    [
        (Standing(written=0, left=2, undone=False), "not written yet", "massgen diff r · massgen apply r"),
        (Standing(written=1, left=1, undone=False), "1 of them written", "massgen diff r · massgen apply r · massgen undo r"),
        (Standing(written=2, left=0, undone=False), ", written", "massgen diff r · massgen undo r"),
        (Standing(written=0, left=2, undone=True), "taken back", "massgen diff r · massgen apply r · massgen undo --redo r"),
    ],
)
def test_a_run_is_shown_as_if_nothing_had_become_of_it(standing: Standing, files: str, then: str):
    """What was applied, in part or whole, and what was taken back since; each next step names the run that is meant."""
    rows = dict(summary.lines(told([*TEAM[:-5], RunFinished(exit_code=0, outcome="ready")]), named=" r", standing=standing))
    assert rows["files"].endswith(files), rows
    assert rows["next"] == then
    assert dict(summary.lines(told(TEAM[:-5]), resumable=True))["next"].startswith("massgen resume ")


def test_a_run_without_any_answer_promises_nothing():
    """No winner, no files, no next step that cannot work; why each agent failed, with what to do about it."""
    why = "x" * 200 + " is down; start it"
    out = [AgentExcluded(agent="agent1", why="wrong key"), AgentExcluded(agent="agent2", why=why)]
    found = summary.lines(told([START, *out, RunFinished(exit_code=3, outcome="no answer", message="all failed")]))
    assert [text for word, text in found if word == "out"] == ["careful: wrong key", f"bold: {why}"]
    rows = dict(found)
    assert (rows["winner"], rows["files"], rows["result"]) == ("nobody", "none changed", "no answer: all failed")
    assert "next" not in rows
    assert summary.lines(Story()) == ()


def test_numbers_read_naturally():
    """Singular, units, minutes."""
    assert (count(1, "file"), count(2, "file")) == ("1 file", "2 files")
    assert [bytes_text(n) for n in (0, 1023, 1024, 5 * 1024**2, 3 * 1024**3)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]
    assert [duration_text(s) for s in (0.04, 9.94, 59.6, 60, 104, 1800, 24_802, 7200, 266_405)] == [
        "0.0 s",
        "9.9 s",
        "1 min",
        "1 min",
        "1 min 44 s",
        "30 min",
        "6 h 53 min",
        "2 h",
        "3 d 2 h",
    ]
