"""What a benchmark calls kept and what it calls missed."""

from __future__ import annotations

import pytest

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
