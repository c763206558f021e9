"""The readable run folder: complete, derived from events alone, and never written through somebody's link."""

from __future__ import annotations

import importlib.util
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from massgen.display.runfolder import RunFolder, make_folder
from massgen.errors import ConfigError
from massgen.events.codec import encode
from massgen.events.types import AnswerGiven, RunStarted, TextSaid, ToolFinished, ToolStarted

NOW = datetime(2026, 11, 21, 12, 30, 5, tzinfo=UTC)


def _display_events():
    """The events of the golden run."""
    spec = importlib.util.spec_from_file_location("display_events", Path(__file__).with_name("test_display.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOLDEN_RUN = _display_events()


def written(folder: Path, events=None) -> RunFolder:
    reader = RunFolder(lambda: make_folder(folder, now=NOW), config="agents: []\n")
    for envelope in GOLDEN_RUN.enveloped(events or GOLDEN_RUN.TEAM):
        reader(envelope)
    return reader


def test_the_folder_has_everything_that_a_reader_looks_for(tmp_path: Path):
    """Names and contents, for the golden run."""
    folder = written(tmp_path).folder
    assert folder == tmp_path / ".massgen/massgen_logs/log_20261121_123005"
    assert (tmp_path / ".massgen/.gitignore").read_text() == "*\n"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "agent_outputs/bold.txt",
        "agent_outputs/careful.txt",
        "agent_outputs/final_presentation_careful.txt",
        "agent_outputs/system_status.txt",
        "bold/20261121_000012_000000/vote.json",
        "bold/20261121_000013_000000/answer.txt",
        "bold/20261121_000017_000000/vote.json",
        "careful/20261121_000011_000000/answer.txt",
        "careful/20261121_000016_000000/vote.json",
        "config.resolved.yaml",
        "coordination_table.txt",
        "events.jsonl",
        "final/careful/answer.txt",
        "result.json",
        "run.json",
        "votes.json",
    ]
    result = json.loads((folder / "result.json").read_text())
    assert (result["winner"], result["answer"], result["written"], result["exit_code"]) == (
        "careful",
        "It is fixed.",
        ["/p/a.py"],
        0,
    )
    assert result["usage"]["careful"]["input_tokens"] == 1200
    votes = json.loads((folder / "votes.json").read_text())
    assert votes["counted"] == {"careful": 2}
    assert [v["reason"] for v in votes["votes"]] == ["It passes.", ""]
    assert json.loads((folder / "run.json").read_text())["prompt"] == "Fix it"
    assert "$ shell pytest -q (exit 1)\n1 failed" in (folder / "agent_outputs/careful.txt").read_text()
    assert (folder / "coordination_table.txt").read_text() == (
        "agent    answer    files    verify  votes\n"
        "careful  agent1.1  1 +2 -1  pass    2\n"
        "bold     agent2.1  none             0\n"
        "\nwinner: careful (2 of 2 votes)\n"
    )


def test_its_events_are_the_log_byte_for_byte(tmp_path: Path):
    """Also when the run was killed half way: what happened so far is there."""
    for number, events in enumerate((GOLDEN_RUN.TEAM, GOLDEN_RUN.TEAM[:12])):
        place = tmp_path / str(number)
        place.mkdir()
        folder = written(place, events).folder
        assert (folder / "events.jsonl").read_bytes() == b"".join(map(encode, GOLDEN_RUN.enveloped(events)))
        assert "hm" in (folder / "agent_outputs/careful.txt").read_text()


def test_nothing_is_made_before_the_run_begins(tmp_path: Path):
    """A missing engine leaves no folder that pretends that something ran."""
    reader = RunFolder(lambda: make_folder(tmp_path, now=NOW))
    assert reader.made is None
    reader.patch("x")
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_second_do_not_share_a_folder(tmp_path: Path):
    """The second gets a number."""
    assert [make_folder(tmp_path, now=NOW).name for _ in range(2)] == ["log_20261121_123005", "log_20261121_123005_2"]


@pytest.mark.parametrize("link", [".massgen", ".massgen/massgen_logs"])
def test_logs_are_not_written_through_a_link_that_came_with_the_project(tmp_path: Path, link: str):
    """It could lead into any folder of the user's."""
    target = tmp_path / "target"
    target.mkdir()
    project = tmp_path / "project"
    (project / link).parent.mkdir(parents=True)
    (project / link).symlink_to(target)
    with pytest.raises(ConfigError, match="link"):
        make_folder(project, now=NOW)
    assert list(target.iterdir()) == []


def test_a_gitignore_of_the_users_is_kept(tmp_path: Path):
    """They may want to commit their config."""
    (tmp_path / ".massgen").mkdir()
    (tmp_path / ".massgen/.gitignore").write_text("massgen_logs\n")
    make_folder(tmp_path, now=NOW)
    assert (tmp_path / ".massgen/.gitignore").read_text() == "massgen_logs\n"


def test_foreign_text_in_the_files_does_not_drive_the_terminal_of_who_reads_them(tmp_path: Path):
    """`cat` obeys escapes as well; lone surrogates do not stop the writing."""
    evil = "x\x1b]0;t\x07\ud800y"
    folder = written(
        tmp_path,
        [
            RunStarted(prompt=evil, agents=({"id": "a", "label": "agent1"},), write_mode="never", context=(), image="i"),
            TextSaid(agent="agent1", text=evil),
            ToolStarted(agent="agent1", call_id="1", name="shell", summary=evil),
            ToolFinished(agent="agent1", call_id="1", name="shell", ok=True, text=evil),
            AnswerGiven(agent="agent1", answer="agent1.1", text=evil, snapshot="s"),
        ],
    ).folder
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"\x1b" not in path.read_bytes(), path
