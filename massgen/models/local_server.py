"""llama.cpp's HTTP server as a process of its own: `python -m massgen.models.local_server`. Started by `local_keeper.py` only.

A process and not a thread of the host: it may run out of memory or crash without taking the run along. It dies with
its keeper, however that ends: its stdin is a pipe that the keeper holds open, so the kernel tells it; and, should that be
missed while the model loads, by the parent-death signal. Nothing listens but 127.0.0.1, and who asks needs the key,
which comes on stdin: other users of the machine can read a command line.

In: one line of JSON, see `Settings`; then nothing until the end of file, which means: leave.
Out: one line of JSON, `{"port": 40613}` when ready or `{"error": "…"}`. What llama.cpp prints goes to the log.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the keeper says on the first line; `local_keeper.py` writes it."""

    model: str
    """Path of the GGUF file."""
    key: str
    threads: int
    context: int
    """Tokens of prompt and answer together."""
    log: str
    """Where llama.cpp's own lines go."""


_PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """Serve until stdin ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    answer = _private_stdout()
    settings = Settings(**json.loads(sys.stdin.buffer.readline()))
    _print_into(settings.log)
    host_gone = threading.Thread(target=_wait_for_host, daemon=True)
    host_gone.start()
    try:
        # Bound to a name: the server stops when nobody holds it.
        server = _serve(settings)
        answer(port=urlsplit(server.listening_address).port)
    except Exception as error:  # noqa: BLE001  # a C++ library's errors have no common type; the host reports them all
        answer(error=f"{type(error).__name__}: {error}")
        return 1
    host_gone.join()
    return 0


def _serve(settings: Settings) -> Any:  # noqa: ANN401  # the library is untyped
    """A server that has loaded the model. Blocks for seconds."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings.model
    params.api_keys = [settings.key]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.cors_origins = "http://127.0.0.1"  # the default lets any web page in the user's browser ask
    params.ui = False
    params.endpoint_slots = False
    params.offline = True
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    # One slot: a second one halves the speed of the first and shares no prompt with it.
    params.n_parallel = 1
    params.n_ctx = settings.context
    params.kv_unified = False
    params.fit_params = False
    # The slot's own memory of the last prompt is what helps; this second cache would cost 8 GB of RAM.
    params.cache_ram_mib = 0
    params.use_jinja = True
    params.warmup = True
    return xllamacpp.Server(params)


def _private_stdout() -> Any:  # noqa: ANN401  # a closure
    """A function that writes one line of JSON to what was stdout; descriptor 1 then belongs to whoever prints."""
    handle = os.dup(sys.stdout.fileno())

    def answer(**values: object) -> None:
        os.write(handle, json.dumps(values).encode() + b"\n")
        os.close(handle)

    return answer


def _print_into(log: str) -> None:
    # Descriptors and not sys.stdout: the lines come from C++.
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _wait_for_host() -> None:
    """Leave when the host does. At once: there is nothing to save, and C++ may be in the middle of a long step."""
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
