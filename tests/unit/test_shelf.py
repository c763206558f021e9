"""Runs on the shelf: what is listed, what is thrown away, and what must never be."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from massgen.cli.chosen import chosen
from massgen.cli.main import main
from massgen.coordination import record as records
from massgen.coordination import tidy
from massgen.coordination.record import Record, WriteRecord
from massgen.coordination.shelf import YOUNG_S, collect, shelf
from sandbox import Entry, Snapshot, Store

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def snapshot(store: Store, text: str) -> str:
    """One file, stored."""
    entry = Entry(root="/p", path="a", kind="file", mode=0o644, size=len(text), sha256=store.put(text.encode()))
    return store.put_snapshot(Snapshot(entries=(entry,)))


def keep(state: Path, name: str, *, days_ago: float, text: str, status: str = "done", **more: object) -> Record:
    """A run of some days ago, its result in the store; everything old enough to go."""
    folder = records.new_run(state, run_id=name)
    store = Store(state / "store")
    record = Record(
        run_id=name,
        started=(NOW - timedelta(days=days_ago)).isoformat(),
        prompt=f"task of {name}",
        image="i",
        write_mode="review",
        verify="",
        roots=("/p",),
        agents=({"id": "a", "label": "agent1"},),
        winner="agent1",
        status=status,
        snapshot=snapshot(store, text),
        **more,  # type: ignore[arg-type]
    )
    records.save(folder, record)
    for path in (state / "store").rglob("*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 2 * YOUNG_S))
    return record


def contents(state: Path) -> set[str]:
    """Of all blobs."""
    return {path.read_text() for path in (state / "store" / "blobs").glob("??/*")}


def test_an_old_run_goes_and_takes_only_its_own_contents_along(tmp_path: Path) -> None:
    """What another run needs stays, by content; a second look finds nothing to do."""
    keep(tmp_path, "old", days_ago=40, text="only old")
    keep(tmp_path, "old2", days_ago=40, text="shared")
    keep(tmp_path, "new", days_ago=1, text="shared")
    planned = collect(tmp_path, keep_days=30, dry_run=True, now=NOW)
    assert contents(tmp_path) == {"only old", "shared"}
    swept = collect(tmp_path, keep_days=30, now=NOW)
    assert sorted(swept.runs) == sorted(planned.runs) == ["old", "old2"]
    assert contents(tmp_path) == {"shared"}
    assert [run.record.run_id for run in shelf(tmp_path)] == ["new"]
    assert collect(tmp_path, keep_days=30, now=NOW) == replace(swept, runs=(), blobs=0, bytes=0)


def test_a_run_that_goes_on_is_never_thrown_away(tmp_path: Path) -> None:
    """However long it has been going on; one whose process is gone is shown as killed."""
    keep(tmp_path, "alive", days_ago=400, text="x", status="running")
    tidy.claim(tmp_path / "runs" / "alive")
    keep(tmp_path, "dead", days_ago=0, text="y", status="running")
    assert collect(tmp_path, keep_days=0, keep_bytes=0, now=NOW + timedelta(days=1)).runs == ("dead",)
    assert [(run.record.run_id, run.status) for run in shelf(tmp_path)] == [("alive", "running")]
    assert contents(tmp_path) == {"x"}


def test_a_change_that_can_be_taken_back_outlives_a_limit_on_size(tmp_path: Path) -> None:
    """Within its days: else a full disk would silently take `undo` away."""
    record = keep(tmp_path, "written", days_ago=3, text="w" * 5000)
    record = replace(record, written=WriteRecord(purpose="apply", snapshot=record.snapshot, undo=record.snapshot))
    records.save(tmp_path / "runs" / "written", record)
    keep(tmp_path, "shown", days_ago=2, text="s" * 5000)
    assert collect(tmp_path, keep_days=30, keep_bytes=1000, now=NOW).runs == ("shown",)
    assert contents(tmp_path) == {"w" * 5000}


def test_what_was_just_stored_is_not_taken_for_rubbish(tmp_path: Path) -> None:
    """A run stores contents first and names them afterwards."""
    snapshot(Store(tmp_path / "store"), "fresh")
    assert collect(tmp_path, keep_days=0, now=NOW).blobs == 0
    assert contents(tmp_path) == {"fresh"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a user of this test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return tmp_path / ".local" / "state" / "massgen"


def code(*args: str) -> int:
    """Of one command."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    return int(ended.value.code or 0)


def test_runs_are_listed_the_last_one_first(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people as a table, for programs as JSON lines; control characters of a task do not reach the terminal."""
    keep(home, "first", days_ago=2, text="x")
    record = keep(home, "second", days_ago=1, text="y")
    records.save(home / "runs" / "second", replace(record, prompt="evil \x1b]0;t\x07"))
    assert code("runs") == 0
    out = capsys.readouterr().out
    assert out.index("second") < out.index("first")
    assert "\x1b" not in out
    assert code("runs", "-n", "1", "--json") == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (row["run"], row["status"], row["winner"], row["written"]) == ("second", "done", "a", False)


def test_a_run_of_another_project_is_not_taken_for_the_last_one_here(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without RUN a command is about this folder's last run; where there is none it is the last of all, which is said."""
    mine, other = home.parent / "mine", home.parent / "other"
    for project, name, days in ((mine, "r-mine", 2), (other, "r-other", 1)):
        project.mkdir(parents=True)
        record = keep(home, name, days_ago=days, text="x")
        records.save(home / "runs" / name, replace(record, roots=(str(project),), prompt=f"of {name}"))
    monkeypatch.chdir(mine)
    assert (chosen("").run, chosen("").named) == ("r-mine", "")
    assert (chosen("r-o").run, chosen("r-o").named) == ("r-other", " r-other")
    assert capsys.readouterr().err == ""
    monkeypatch.chdir(home)
    assert (chosen("").run, chosen("").named) == ("r-other", "")
    assert f"r-other, is of {other}" in capsys.readouterr().err
    for word, parts in (
        ("r-", ["2 runs begin", "r-mine, r-other", "type more"]),
        ("x", ["no run begins with 'x'", "massgen runs"]),
    ):
        assert code("diff", word) == 2
        said = capsys.readouterr().err
        assert all(part in said for part in parts), said


def test_no_runs_is_no_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says how to get one."""
    assert code("runs") == 0
    assert "massgen run" in capsys.readouterr().err
    assert code("show") == 2
    assert code("gc", "--dry-run") == 0
    assert "would remove 0 runs" in capsys.readouterr().out
