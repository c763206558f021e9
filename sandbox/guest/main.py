"""Become PID 1 of a container: keep stdin and stdout to ourselves, harden, serve, and take everything along at the end."""

from __future__ import annotations

import os
import signal
import sys

from sandbox.guest.serve import Guest
from sandbox.guest.world import PidOne


def main(world: PidOne | None = None) -> None:
    """Never returns: when the guest ends, the kernel ends the container."""
    world = world or PidOne()
    world.harden()
    stdin, stdout = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    os.umask(0o022)
    guest = Guest(stdin, stdout, world, on_silence=lambda: os._exit(75))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # without a handler the interpreter does not write its number
    signal.set_wakeup_fd(guest.wake_fd, warn_on_full_buffer=False)
    try:
        guest.serve()
    except BaseException as error:  # noqa: BLE001 - the last words of the container
        sys.stderr.write(f"guest: {type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(70)
    os._exit(0)
