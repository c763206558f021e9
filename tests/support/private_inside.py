"""PID 1 of a private engine's namespaces: starts engines, signals what runs there, and takes everything away when it ends.

    unshare --mount --net --pid --fork --mount-proc --propagation slave python3 private_inside.py FOLDER CGROUP

One JSON request a line on stdin, one answer a line on stdout. It ends when stdin does: a test process that is killed takes its
engine, the containers of that and all they left with it. Standard library only; started by `private_engine.py`, never by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCKERD = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/sbin:/bin"


def main(folder: Path, cgroup: str) -> None:
    """Serve until stdin ends."""
    mount("-t", "tmpfs", "tmpfs", "/run")
    (folder / "private").mkdir()
    mount("-t", "tmpfs", "-o", "mode=711", "tmpfs", str(folder / "private"))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writable)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    buffer = b""
    try:
        while True:
            ready, _, _ = select.select([0, readable], [], [])
            if readable in ready:
                os.read(readable, 4096)
                reap()
            if 0 in ready:
                chunk = os.read(0, 65536)
                if not chunk:
                    return
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    os.write(1, json.dumps(answer(json.loads(line), folder, cgroup)).encode() + b"\n")
    finally:
        end(folder, cgroup)


def answer(request: dict[str, Any], folder: Path, cgroup: str) -> object:
    """Do what is asked."""
    match request["do"]:
        case "start":
            return start(folder, cgroup, request["options"])
        case "signal":
            pids = [pid for pid in others() if name(pid) == request["name"][:15]]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, request["signal"])
            return pids
        case "processes":
            return [words(pid) for pid in others()]
        case unknown:
            return {"error": f"{unknown}?"}


def start(folder: Path, cgroup: str, options: list[str]) -> int:
    """An engine on its own data, reading no configuration but ours."""
    private = folder / "private"
    argv = ["dockerd", "--host", f"unix://{folder}/docker.sock", "--group", str(folder.stat().st_gid)]
    argv += ["--data-root", f"{private}/data", "--exec-root", f"{private}/exec", "--pidfile", f"{private}/pid"]
    argv += ["--config-file", f"{folder}/daemon.json", "--cgroup-parent", f"/{cgroup}", "--bridge=none"]
    argv += ["--iptables=false", "--ip6tables=false", *options]
    (private / "pid").unlink(missing_ok=True)  # of one that was killed
    with (folder / "log").open("ab") as log:
        path = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:{DOCKERD}"}
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=path, start_new_session=True).pid


def mount(*words: str) -> None:
    """In our mount namespace alone."""
    subprocess.run(["mount", *words], check=True)


def reap() -> None:
    """Whoever has ended, ours or given to us."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def others() -> Iterator[int]:
    """Every process of the namespace but ours."""
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and place.name != "1":
            yield int(place.name)


def name(pid: int) -> str:
    """At most 15 characters; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def words(pid: int) -> str:
    """Its command line; empty when it is gone, or dead already."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def end(folder: Path, cgroup: str) -> None:
    """Kill everything, then remove the control groups and the folder."""
    signal.set_wakeup_fd(-1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    root = Path("/sys/fs/cgroup")
    for top in {root / cgroup, *(root.glob(f"*/{cgroup}"))}:
        for place, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(place).rmdir()
    subprocess.run(["umount", "-l", str(folder / "private")], check=False)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
