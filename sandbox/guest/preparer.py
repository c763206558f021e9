"""PID 1 of a container in which an image is prepared: the files come in over stdin, the commands run, their output goes out.

It is no guest: the user's own commands run here as root and with network, so nothing is withheld from them. It owes the host
three things: what each command printed and how it ended, that nothing of what came in stays in the image (the folder is a
mount of its own, and what the commands left in /tmp is removed), and death when the host is gone (stdin ends).

    in    one line of JSON: folder, commands, environment, files [name, size]; then the files' bytes; then nothing until the end
    out   lines of JSON: {"step": n} · {"line": text} · {"end": [n, exit code]}
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import IO

LINE_BYTES = 4096
LINGER_S = 2.0
TMP = "/tmp"


def main() -> None:
    """Everything, in order; the exit code is that of the first command that failed."""
    source = sys.stdin.buffer
    request = json.loads(source.readline())
    os.umask(0o022)
    _receive(source, request["folder"], request["files"])
    threading.Thread(target=_die_with_host, args=(source,), daemon=True).start()
    before = set(os.listdir(TMP)) if os.path.isdir(TMP) else set()
    environment = {**os.environ, **request["environment"]}
    step = code = 0
    for step, command in enumerate(request["commands"], start=1):
        _say({"step": step})
        code = _run(command, environment, request["folder"])
        if code:
            break
    _tidy(before)
    _say({"end": [step, code]})
    os._exit(min(code, 255))


def _receive(source: IO[bytes], folder: str, files: list[tuple[str, int]]) -> None:
    for name, size in files:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            left = size
            while left > 0:
                piece = source.read(min(left, 1 << 20))
                if not piece:
                    os._exit(125)
                left -= len(piece)
                file.write(piece)


def _die_with_host(source: IO[bytes]) -> None:
    source.read()
    os._exit(125)


def _run(command: str, environment: dict[str, str], folder: str) -> int:
    try:
        child = subprocess.Popen(
            ["/bin/sh", "-ec", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
            env=environment,
        )
    except OSError as error:
        _say({"line": f"cannot start /bin/sh: {error}"})
        return 127
    reader = threading.Thread(target=_relay, args=(child.stdout,), daemon=True)
    reader.start()
    code = child.wait()
    # A daemon that the command left holds the pipe open; it gets no chance to write into the image later either.
    reader.join(LINGER_S)
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)
    return 128 - code if code < 0 else code


def _relay(pipe: IO[bytes]) -> None:
    while True:
        line = pipe.readline(LINE_BYTES)
        if not line:
            return
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            _say({"line": text})


def _tidy(before: set[str]) -> None:
    for name in set(os.listdir(TMP) if os.path.isdir(TMP) else ()) - before:
        path = os.path.join(TMP, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.remove(path)


_speaking = threading.Lock()


def _say(message: dict[str, object]) -> None:
    with _speaking:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
