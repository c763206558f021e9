"""The slow tests: left out where nobody waits for them, and still each one runs once a fortnight."""

from __future__ import annotations

import pytest

from tests.conftest import SLICES, left_for_another_day


@pytest.mark.parametrize("name", [f"tests/docker/test_chaos.py::test_x[{n}]" for n in range(20)])
def test_a_slow_test_that_no_slice_runs_is_caught(name: str) -> None:
    """Exactly one slice runs it, `all` does, nothing else does, and whoever leaves it out says how to run it."""
    left_out = {str(n): left_for_another_day(name, str(n)) for n in range(SLICES)}
    (mine,) = [n for n, why in left_out.items() if not why]
    assert left_for_another_day(name, "all") == ""
    assert f"MASSGEN_SLICE={mine}" in left_for_another_day(name, "")


@pytest.mark.parametrize("day", [0, 6, 364, 20783])
def test_a_day_on_which_two_programs_run_or_none_is_caught(day: int) -> None:
    """Of tests that say of how many they are and whose turn theirs is, each day has exactly one; a day is any number."""
    ran = [turn for turn in range(3) if not left_for_another_day("any", str(day), of=3, turn=turn)]
    assert ran == [day % 3]
