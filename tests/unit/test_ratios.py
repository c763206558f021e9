"""What a benchmark calls kept and what it calls missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.ratios import Row, p95, table


@pytest.mark.parametrize(
    ("row", "figure", "verdict"),
    [
        (Row(what="ratio", ours=1.2, baseline="b", base=1.0, limit=1.3), 1.2, "kept"),
        (Row(what="ratio", ours=1.4, baseline="b", base=1.0, limit=1.3), 1.4, "MISSED"),
        (Row(what="times", ours=1.0, baseline="b", base=50.0, limit=40, sense="at least"), 50.0, "kept"),
        (Row(what="times", ours=1.0, baseline="b", base=30.0, limit=40, sense="at least"), 30.0, "MISSED"),
        (Row(what="rate", ours=299.0, unit="MB/s", limit=300, sense="at least"), 299.0, "MISSED"),
        (Row(what="bound", ours=64.5, unit="MiB", limit=64), 64.5, "MISSED"),
        (Row(what="bare", ours=9.0, baseline="b", base=1.0), 9.0, "info"),
        (Row(what="absent", ours=None, limit=1, note="not installed"), None, "not measured"),
    ],
)
def test_a_missed_promise_passes_for_kept(row: Row, figure: float | None, verdict: str) -> None:
    """A row is kept on its own side of its limit only, and what was not measured is not kept."""
    assert row.figure == figure
    assert row.verdict == verdict
    assert verdict in table([row])


def test_the_slow_twentieth_is_left_out_of_p95() -> None:
    """Nineteen values of twenty are at most p95, so that one in ten slow ones shows."""
    assert p95([1.0] * 18 + [9.0] * 2) == 9.0


def test_a_benchmark_of_one_part_takes_the_others_off_the_page(tmp_path: Path) -> None:
    """Every benchmark with figures is on the page, each with its machine; what was not measured again stays as it was."""
    page = tmp_path / "RESULTS.md"
    for name, ours in (("sandbox", 1.0), ("coordination", 2.0), ("models", 3.0)):
        row = {**vars(Row(what=f"of {name}", ours=ours)), "figure": ours, "verdict": "info"}
        figures = {"machine": {"cpu": f"of {name}"}, "sections": {"first": [row]}}
        (tmp_path / f"{name}.json").write_text(json.dumps(figures))
    record.write(tmp_path, page)
    before = page.read_text()
    for name in ("sandbox", "coordination", "models"):
        assert f"| of {name} | " in before
        assert f"Machine: cpu of {name}." in before
    for name in ("sandbox", "models"):
        (tmp_path / f"{name}.json").unlink()
    changed = (tmp_path / "coordination.json").read_text().replace("2.0", "7.0")
    (tmp_path / "coordination.json").write_text(changed)
    record.write(tmp_path, page)
    assert page.read_text() == before.replace("2.00", "7.00")
