"""A container engine for one test module, to be killed at will: its own namespaces, data, socket and control group.

    with PrivateEngine() as private:
        private.bring("massgen-agent:latest")
        private.signal("dockerd", signal.SIGKILL)
        private.start()

The installed engine is out of its reach, and nothing of it stays: it ends with the process that made it, SIGKILL included,
because PID 1 of its namespaces (`private_inside.py`) lives as long as its stdin. It runs the installed `dockerd`, on memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import docker
import docker.errors
from docker.utils import kwargs_from_env

ROOT = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).with_name("private_inside.py")
START_S = 30.0


def unable() -> str:
    """Why no private engine can be had here; empty when one can."""
    if os.getuid() and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
        return "a private engine takes root"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    return "" if shutil.which("dockerd", path=path) else "there is no dockerd on this machine to start a private engine with"


class PrivateEngine:
    """One engine; `with` starts it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="massgen-engine-")).resolve()
        self.configure()
        self.host = f"unix://{self.folder}/docker.sock"
        cgroup = f"massgen-test-{self.folder.name.rpartition('-')[2]}"
        separate = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "slave"]
        root = [] if os.getuid() == 0 else ["sudo", "-n"]
        # A session of its own: a signal for the test process's group must not end PID 1 before it has cleaned up.
        self._inside = subprocess.Popen(
            [*root, *separate, sys.executable, "-I", str(INSIDE), str(self.folder), cgroup],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End it and wait until all of it is gone."""
        assert self._inside.stdin is not None
        assert self._inside.stdout is not None
        self._inside.stdin.close()
        self._inside.wait(60)
        self._inside.stdout.close()

    def _ask(self, **request: object) -> Any:
        assert self._inside.stdin is not None
        assert self._inside.stdout is not None
        self._inside.stdin.write(json.dumps(request).encode() + b"\n")
        self._inside.stdin.flush()
        line = self._inside.stdout.readline()
        assert line, f"the private engine's PID 1 has ended: {self.log()}"
        return json.loads(line)

    # -- the engine ------------------------------------------------------------------------------------------

    def start(self, *options: str) -> None:
        """Start it and wait until it answers. What ran before it is its own business."""
        self._ask(do="start", options=options)
        self.until(self.answers, "it does not answer")

    def stop(self) -> None:
        """As a service manager would: SIGTERM, and wait for its end."""
        self.signal("dockerd", signal.SIGTERM)
        self.until(lambda: not self.running("dockerd"), "it does not stop")

    def kill(self) -> None:
        """SIGKILL; back when it is gone."""
        self.signal("dockerd", signal.SIGKILL)
        self.until(lambda: not self.running("dockerd"), "it does not die")

    def restart(self, *options: str) -> None:
        """Both."""
        self.stop()
        self.start(*options)

    def renew(self) -> None:
        """Running as at first, whatever was done to it."""
        self.signal("dockerd", signal.SIGCONT)
        self.signal("containerd", signal.SIGCONT)
        if not self.running("dockerd"):
            self.start()

    def configure(self, **settings: object) -> None:
        """Its daemon.json, from the next start on. Without words it has the runtime `witness`, which is runc and takes notes."""
        witness = self.folder / "witness"
        witness.write_text(f'#!/bin/sh\necho "$@" >>{self.folder}/witnessed\nexec runc "$@"\n')
        witness.chmod(0o755)
        (self.folder / "witnessed").touch()
        (self.folder / "daemon.json").write_text(json.dumps(settings or {"runtimes": {"witness": {"path": str(witness)}}}))

    def witnessed(self) -> int:
        """How many containers the runtime `witness` has made."""
        return sum(" create " in line for line in (self.folder / "witnessed").read_text().splitlines())

    def created(self, since_s: float) -> int:
        """How many containers were made in all, by the engine's own events since a point of the clock."""
        with self.client() as client:
            asked = {"type": "container", "event": "create"}
            return sum(1 for _ in client.events(since=since_s, until=time.time(), filters=asked, decode=True))

    def answers(self) -> bool:
        """Whether it does, now."""
        with socket.socket(socket.AF_UNIX) as asking:  # not the SDK: where nobody listens, it forgets an open socket
            try:
                asking.settimeout(2)
                asking.connect(str(self.folder / "docker.sock"))
                asking.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in asking.recv(64)
            except OSError:
                return False

    def signal(self, name: str, number: int) -> int:
        """Send it to every process of that name in the namespace; how many there were."""
        return len(self._ask(do="signal", name=name, signal=int(number)))

    def running(self, name: str) -> bool:
        """Whether a process of that name is there."""
        return self.signal(name, 0) > 0

    def processes(self, marker: str = "") -> list[str]:
        """Command lines in the namespace that hold `marker`: those of the engine and of its containers."""
        return [line for line in self._ask(do="processes") if marker in line and line]

    def until(self, true: Callable[[], bool], why: str, *, within_s: float = START_S) -> None:
        """Poll; a private engine does things in its own time."""
        deadline = time.monotonic() + within_s
        while not true():
            assert time.monotonic() < deadline, f"{why} within {within_s:.0f} s: {self.log()}"
            time.sleep(0.05)

    def log(self) -> str:
        """The end of what it wrote."""
        try:
            return (self.folder / "log").read_text(errors="replace")[-2000:]
        except OSError:
            return ""

    # -- what is on it ---------------------------------------------------------------------------------------

    @contextmanager
    def client(self, *, timeout_s: float = 60) -> Iterator[Any]:
        """The SDK on this engine."""
        opened = docker.APIClient(base_url=self.host, version="1.41", timeout=timeout_s)
        try:
            yield opened
        finally:
            opened.close()

    def bring(self, image: str) -> None:
        """Copy an image from the engine that the other tests use."""
        source = docker.APIClient(version="auto", timeout=120, **kwargs_from_env())
        try:
            with self.client(timeout_s=120) as client:
                for _ in client.load_image(source.get_image(image)):
                    pass
        finally:
            source.close()

    def containers(self) -> list[str]:
        """Ids of all of them, running or not.

        Not ghosts: an engine that was killed while it removed a container can list it as dead from then on, and knows it no more.
        """
        found = []
        with self.client() as client:
            for container in client.containers(all=True):
                with contextlib.suppress(docker.errors.NotFound):
                    found.append(str(client.inspect_container(container["Id"])["Id"]))
        return found

    def empty(self) -> None:
        """No container and no volume of a test that failed disturbs the next one."""
        with self.client() as client:
            for container in self.containers():
                with contextlib.suppress(docker.errors.APIError):  # on its way already
                    client.remove_container(container, force=True, v=True)
            self.until(lambda: not self.containers(), "it does not let go of its containers")
            for volume in self.volumes():
                client.remove_volume(volume, force=True)

    def volumes(self) -> list[str]:
        """Names of all of them."""
        with self.client() as client:
            return [str(v["Name"]) for v in client.volumes().get("Volumes") or []]


def left(folder: Path) -> Sequence[str]:
    """What there is of an engine after its end: processes, control groups, mounts, folders."""
    cgroup = f"massgen-test-{folder.name.rpartition('-')[2]}"
    found = [str(p) for p in Path("/sys/fs/cgroup").glob(f"**/{cgroup}")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in place.read_bytes().decode("utf-8", "replace"):
                found.append(str(place))
        except OSError:
            continue
    return found + [str(folder)] * folder.exists()
