"""The slow tests: left out where nobody waits for them, and still each one runs once a week."""

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
