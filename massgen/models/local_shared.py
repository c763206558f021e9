"""A place at the one local server that everybody shares: join it, start it if nobody has, hold on to it, let go.

What `local_keeper.py` keeps is found by a socket in a folder of the user's own. Joining is done under a lock: of two runs that
start at once the second finds the first one's server, also while that loads.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from massgen.errors import ConfigError, ModelUnavailable
from massgen.models import gguf

LOAD_S: Final = 180.0
"""Loading takes 2 to 4 s; a cold disk, a bigger file and a busy machine take longer."""
LINGER_S: Final = 30.0
"""The server stays for so long after its last user: the next run of the same minute does not load it again."""
_LINE: Final = 65_536
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD")
"""What the server may know of ours: it outlives us, and needs none of our keys."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which server."""

    weights: Path
    threads: int | None
    context: int | None
    """None, of both: any that runs will do, else who starts one decides, from the machine. So a second run does not load a large
    model again because the first one has left less memory."""
    folder: Path
    """For socket, lock and log."""
    linger_s: float = LINGER_S
    free_bytes: int | None = None
    """What a server may take; None: what the machine has left."""

    @property
    def name(self) -> str:
        """The same for all who mean the same server, and no other."""
        about = self.weights.stat()
        facts = (str(self.weights.resolve()), about.st_size, about.st_mtime_ns, self.threads, self.context, sys.executable)
        return hashlib.sha256(repr((*facts, __file__)).encode()).hexdigest()[:16]

    def file(self, ending: str) -> Path:
        """`local-….sock`, `.lock`, `.log`."""
        return self.folder / f"local-{self.name}.{ending}"


class Joined:
    """One user's hold on the server. Closing it, or dying, lets go."""

    def __init__(self, line: socket.socket, told: Mapping[str, Any], log: Path) -> None:
        self.port = int(told["port"])
        self.key = str(told["key"])
        self.pid = int(told["pid"])
        self.context = int(told["context"])
        self.log = log
        self._line = line

    def end(self) -> str:
        """How the server ended; empty: it runs."""
        try:
            news = self._line.recv(_LINE, socket.MSG_PEEK)
        except BlockingIOError:
            return ""
        except OSError:
            news = b""
        with suppress(ValueError, KeyError, TypeError):
            return _ended(int(json.loads(news)["ended"]), self.log)
        return f"the local model's server is gone; its log: {self.log}"

    async def ended_within(self, seconds: float) -> str:
        """The same, when the word about it may be on its way."""
        with anyio.move_on_after(seconds):
            await anyio.wait_readable(self._line)
        return self.end()

    def close(self) -> None:
        """Let go. Idempotent."""
        self._line.close()


async def join(wanted: Wanted) -> Joined:
    """A hold on the server, started now if need be, with the model loaded. Raises: ModelUnavailable, ConfigError."""
    for last in (False, True):
        line = await anyio.to_thread.run_sync(_connected, wanted)
        try:
            with anyio.fail_after(LOAD_S):
                told = await _first_line(line)
            if told is None and not last:
                line.close()  # it was leaving when we came
                continue
            if told is None or "port" not in told:
                raise ModelUnavailable(_why(told or {}, wanted.file("log")), unbilled=True)
            return Joined(line, told, wanted.file("log"))
        except TimeoutError as error:
            line.close()
            what = f"the local model did not load within {LOAD_S:g} s; its log: {wanted.file('log')}"
            raise ModelUnavailable(what, unbilled=True) from error
        except BaseException:
            line.close()
            raise
    raise AssertionError


def runtime_folder(environment: Mapping[str, str]) -> Path:
    """A folder that is this user's alone, with a path short enough for a socket. Raises: ConfigError: somebody else made it."""
    given = environment.get("XDG_RUNTIME_DIR", "")
    base = Path(given) if given.startswith("/") and len(given) < 60 and Path(given).is_dir() else None
    folder = base / "massgen" if base else Path(tempfile.gettempdir()) / f"massgen-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise ConfigError(f"{folder} is not a folder of yours alone; remove it, or set XDG_RUNTIME_DIR to one that is")
    return folder


def _connected(wanted: Wanted) -> socket.socket:
    """Under the lock: to the server that is there, else to one that is started now. Blocks for a moment."""
    path = str(wanted.file("sock"))
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with wanted.file("lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                line.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                _start(wanted, path)
                line.connect(path)
        line.settimeout(0)
    except BaseException:
        line.close()
        raise
    return line


def _start(wanted: Wanted, path: str) -> None:
    context = wanted.context
    if context is None:
        free_bytes = gguf.free_memory_bytes() if wanted.free_bytes is None else wanted.free_bytes
        context = gguf.context_tokens(gguf.shape(wanted.weights), free_bytes=free_bytes)
    with suppress(FileNotFoundError):
        Path(path).unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(path)
        door.listen(64)
        keeping = {
            "model": str(wanted.weights),
            "threads": wanted.threads or gguf.threads(),
            "context": context,
            "log": str(wanted.file("log")),
            "socket_fd": door.fileno(),
            "socket_path": path,
            "lock_path": str(wanted.file("lock")),
            "linger_s": wanted.linger_s,
        }
        wanted.file("log").write_text("")
        command = [sys.executable, "-m", "massgen.models.local_keeper"]
        # Nothing of ours but the door goes along; and it goes on when we do not.
        done = subprocess.run(
            command,
            input=json.dumps(keeping).encode() + b"\n",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(door.fileno(),),
            start_new_session=True,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            check=False,
        )
    if done.returncode != 0:
        raise ModelUnavailable(f"the local model's keeper ended with {done.returncode}", unbilled=True)


async def _first_line(line: socket.socket) -> dict[str, Any] | None:
    """None: it ended without one."""
    said = b""
    while b"\n" not in said and len(said) < _LINE:
        await anyio.wait_readable(line)
        try:
            piece = line.recv(_LINE - len(said))
        except BlockingIOError:
            continue
        except OSError:
            return None
        if not piece:
            return None
        said += piece
    told = json.loads(said.partition(b"\n")[0])
    return told if isinstance(told, dict) else {}


def _why(told: Mapping[str, Any], log: Path) -> str:
    if "ended" in told:
        return _ended(int(told["ended"]), log)
    return f"the local model did not load: {told.get('error', 'no reason given')}; its log: {log}"


def _ended(code: int, log: Path) -> str:
    killed = f"was killed by signal {-code}, perhaps for want of memory" if code < 0 else f"ended with {code}"
    return f"the local model's server {killed}; its log: {log}"
