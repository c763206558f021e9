"""Head and tail: nothing is lost below the limit, memory stays below it above."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.process import Kept, outcome_of


@given(st.integers(1, 40), st.lists(st.binary(max_size=30), max_size=30))
def test_kept_bytes_are_the_true_ends(limit: int, chunks: list[bytes]) -> None:
    """Head is the beginning, tail the end, the gap is counted, and no more than the limit is kept."""
    kept, everything = Kept(limit), b"".join(chunks)
    for chunk in chunks:
        kept.add(chunk)
        assert sum(map(len, kept._tail)) <= limit + 2 * 30
    out = kept.output()
    assert everything.startswith(out.head)
    assert everything.endswith(out.tail)
    assert len(out.head) + out.cut_bytes + len(out.tail) == len(everything)
    assert len(out.head) + len(out.tail) <= limit
    if len(everything) <= limit:
        assert out.cut_bytes == 0
        assert out.text == everything.decode("utf-8", "replace")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
NUMBERS = ("exit_code", "signal", "errno", "wall_s", "cpu_user_s", "cpu_sys_s", "max_rss_bytes", "peak_memory_bytes", "peak_pids")
FIELDS = st.sampled_from(["reason", "message", "peak_of", *NUMBERS])


@given(st.dictionaries(FIELDS, JSON))
def test_hostile_verdict_is_not_believed_beyond_its_types(verdict: dict) -> None:
    """Whatever JSON a guest sends, an outcome comes out and none of its numbers is a surprise."""
    outcome = outcome_of(verdict)
    assert outcome.shell_code >= 0 or outcome.exit_code is not None or outcome.signal is not None
    assert all(isinstance(n, int) for n in (outcome.max_rss_bytes, outcome.peak_memory_bytes, outcome.peak_pids, outcome.errno))
    assert all(abs(n) < 2**63 for n in (outcome.wall_s, outcome.cpu_user_s, outcome.cpu_sys_s))


@pytest.mark.parametrize("number", [10**400, -(10**400), float("inf"), float("nan"), True, "1", None, [1]])
def test_absurd_number_does_not_raise(number: object) -> None:
    """Integers too large for a float included."""
    outcome_of({"reason": "exited", "wall_s": number, "max_rss_bytes": number})


def test_unknown_reason_is_lost_not_success() -> None:
    """A verdict that we do not know is never an exit with code 0."""
    assert outcome_of({"reason": "fine", "exit_code": 0}).reason == "lost"
    assert not outcome_of({}).ok
