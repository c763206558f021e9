"""Owner labels: a living process is never taken for dead."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import owner


def test_we_are_alive() -> None:
    """Our own label."""
    assert owner.alive(owner.me())


def test_dead_process_is_not_alive() -> None:
    """Its pid may be there again, its start time not; a zombie is dead; another boot is over."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        label = f"{child.pid}:{owner._started(child.pid)}:{owner.boot()}"
        assert owner.alive(label)
        assert not owner.alive(f"{child.pid}:1:{owner.boot()}")
        assert not owner.alive(label.replace(owner.boot(), "another-boot"))
        child.stdin.close()
        child.wait()
        assert not owner.alive(label)


@given(st.text(max_size=20), st.text(max_size=10))
def test_label_that_nobody_wrote_does_not_raise(pid: str, started: str) -> None:
    """Any text is judged."""
    owner.alive(pid)
    owner.alive(f"{pid}:{started}:{owner.boot()}")


@pytest.mark.parametrize("label", ["", "x", "²:1:" + owner.boot(), "9" * 5000 + ":1:" + owner.boot(), "1:2:3:4"])
def test_label_that_cannot_be_read_counts_as_alive(label: str) -> None:
    """Never reap the unknown."""
    assert owner.alive(label)
