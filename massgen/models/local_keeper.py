"""Keeps one llama.cpp server for everybody who uses the same model: `python -m massgen.models.local_keeper`.

Who uses the server holds a connection to the keeper's socket, and nothing else counts: the kernel closes it however its
holder ends, SIGKILL included, so no count can be wrong and no lease can be stale. When the last one is gone for `linger_s`,
the keeper ends, and the server with it (its stdin is a pipe from the keeper, see `local_server.py`). A process of its own beside
the server, because loading a model holds Python's lock for seconds, and somebody has to watch the connections meanwhile.

The socket is made by whoever starts the keeper, under the lock, and inherited: so there is no moment in which a second one
would start another, and none in which a connection finds nobody. Before it leaves, the keeper takes the same lock, and stays
if somebody has come.

In: one line of JSON on stdin, see `Keeping`; `local_shared.py` writes it. To each user, on the socket: one line of JSON when the
model is loaded, `{"port", "key", "pid", "context"}`, or `{"error"}`; a second one, `{"ended": code}`, when the server is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What the starter says."""

    model: str
    threads: int
    context: int
    log: str
    socket_fd: int
    """The listening socket, inherited."""
    socket_path: str
    lock_path: str
    linger_s: float
    """How long it stays when nobody uses it."""


_PEER: Final = struct.Struct("3i")


class _Keeper:
    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        self._door = socket.socket(fileno=keeping.socket_fd)
        self._door.settimeout(0)
        self._events = selectors.DefaultSelector()
        self._events.register(self._door, selectors.EVENT_READ, "door")
        self._users: set[socket.socket] = set()
        self._key = secrets.token_urlsafe(24)
        self._news: bytes | None = None
        """What each user is told; None while the model loads."""
        self._unused_since = time.monotonic()
        command = [sys.executable, "-m", "massgen.models.local_server"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        settings = {
            "model": keeping.model,
            "key": self._key,
            "threads": keeping.threads,
            "context": keeping.context,
            "log": keeping.log,
        }
        assert self._server.stdin is not None  # noqa: S101  (a pipe was asked for)
        assert self._server.stdout is not None  # noqa: S101
        self._server.stdin.write(json.dumps(settings).encode() + b"\n")
        self._server.stdin.flush()
        self._events.register(self._server.stdout, selectors.EVENT_READ, "server")
        self._events.register(os.pidfd_open(self._server.pid), selectors.EVENT_READ, "end")

    def run(self) -> None:
        """Until nobody uses it, or the server ends."""
        while True:
            left = None if self._users else self._unused_since + self._keeping.linger_s - time.monotonic()
            if left is not None and left <= 0 and self._nobody_came():
                break
            for key, _ in self._events.select(left if left is None or left > 0 else 0):
                if key.data == "door":
                    self._greet()
                elif key.data == "server":
                    self._hear()
                elif key.data == "end":
                    self._tell({"ended": self._server.wait()})
                    self._close_door()
                    return
                else:
                    self._leave(key.data)
        self._server.kill()
        self._server.wait()

    def _greet(self) -> None:
        user, _ = self._door.accept()
        _, uid, _ = _PEER.unpack(user.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid != os.getuid():
            user.close()
            return
        self._users.add(user)
        self._events.register(user, selectors.EVENT_READ, user)
        if self._news:
            self._say(user, self._news)

    def _hear(self) -> None:
        """The server's one line."""
        assert self._server.stdout is not None  # noqa: S101
        line = self._server.stdout.readline()
        self._events.unregister(self._server.stdout)
        with suppress(ValueError):
            said = json.loads(line)
            about = {"key": self._key, "pid": self._server.pid, "context": self._keeping.context}
            self._tell({"port": said["port"], **about} if "port" in said else said)

    def _tell(self, news: dict[str, object]) -> None:
        self._news = json.dumps(news).encode() + b"\n"
        for user in tuple(self._users):
            self._say(user, self._news)

    def _say(self, user: socket.socket, news: bytes) -> None:
        try:
            user.sendall(news)
        except OSError:
            self._leave(user)

    def _leave(self, user: socket.socket) -> None:
        """Users say nothing: what can be read from one is its end."""
        if user in self._users:
            self._users.discard(user)
            self._events.unregister(user)
            user.close()
            self._unused_since = time.monotonic()

    def _nobody_came(self) -> bool:
        """Under the lock: whoever comes now waits for us to be gone, and starts another."""
        with Path(self._keeping.lock_path).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(BlockingIOError):
                self._greet()
            if self._users:
                return False
            self._close_door()
            return True

    def _close_door(self) -> None:
        with suppress(FileNotFoundError):
            Path(self._keeping.socket_path).unlink()
        self._door.close()


def main() -> int:
    """Read what to keep, leave the starter, keep it."""
    keeping = Keeping(**json.loads(sys.stdin.buffer.readline()))
    # A grandchild: whoever started it goes on, and has no child to bury.
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    _Keeper(keeping).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
