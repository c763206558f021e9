"""SIGKILL at random moments of everything that massgen does: the next start leaves nothing of it, and the project is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chaos import Chaos

pytestmark = pytest.mark.docker

BATCH = 8
FEW = 2


def kill(folder: Path, seed: int, first: int, count: int) -> None:
    """So many kills; all of them are looked at before one fails."""
    chaos = Chaos(folder, seed)
    kills = [chaos.one(number) for number in range(first, first + count)]
    assert [k for k in kills if k.wrong] == []


def test_a_kill_at_a_random_moment_leaves_something(tmp_path: Path) -> None:
    """Of a run over layers, and of one that writes directly; `make chaos` has two hundred, of every kind."""
    kill(tmp_path, 11, 1, FEW)


@pytest.mark.parametrize("batch", [pytest.param(n, marks=pytest.mark.slow(turn=n)) for n in range(25)])
def test_one_of_two_hundred_kills_leaves_something(tmp_path: Path, batch: int) -> None:
    """The two hundred of `make chaos`, in batches that CI goes through, some a day."""
    kill(tmp_path, 2026, batch * BATCH + 1, BATCH)
