"""Owner labels: a living process is never taken for dead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import owner

ROOT = Path(__file__).resolve().parents[2]


def test_we_are_alive() -> None:
    """Our own label."""
    assert owner.alive(owner.me())


def test_dead_process_is_not_alive() -> None:
    """Its pid may be there again, its start time not; a zombie is dead; another boot is over."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        label = f"{child.pid}:{owner._started(child.pid)}:{owner.boot()}:{owner.namespace()}"
        assert owner.alive(label)
        assert not owner.alive(f"{child.pid}:1:{owner.boot()}:{owner.namespace()}")
        assert not owner.alive(label.replace(owner.boot(), "another-boot"))
        child.stdin.close()
        child.wait()
        assert not owner.alive(label)


@given(st.text(max_size=20), st.text(max_size=10))
def test_label_that_nobody_wrote_does_not_raise(pid: str, started: str) -> None:
    """Any text is judged."""
    owner.alive(pid)
    owner.alive(f"{pid}:{started}:{owner.boot()}")
    owner.alive(f"{pid}:{started}:{owner.boot()}:{owner.namespace()}")


@pytest.mark.parametrize("other", ["1", ""])
def test_owner_in_another_pid_namespace_is_not_taken_for_dead(other: str) -> None:
    """Its pid says nothing here; only a reboot proves its end."""
    label = f"999999999:1:{owner.boot()}:{other}"
    assert owner.alive(label)
    assert not owner.alive(label.replace(owner.boot(), "another-boot"))


@pytest.mark.skipif(os.getuid() != 0, reason="a pid namespace of its own needs root")
def test_living_owner_in_a_container_is_not_reaped_from_the_host() -> None:
    """The label of a process that is pid 1 of another namespace, and ours as it looks from there."""
    code = "import sys; from sandbox import owner; print(owner.me(), owner.alive(sys.argv[1]), flush=True); input()"
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", code, owner.me()]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        label, ours = child.stdout.readline().split()
        assert label.startswith("1:")
        assert (owner.alive(label), ours) == (True, "True")
        child.communicate("\n")


@pytest.mark.parametrize("label", ["", "x", "²:1:" + owner.boot(), "9" * 5000 + ":1:" + owner.boot(), "1:2:3:4:5"])
def test_label_that_cannot_be_read_counts_as_alive(label: str) -> None:
    """Never reap the unknown."""
    assert owner.alive(label)
