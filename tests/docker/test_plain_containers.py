"""The guest needs nothing of our launcher: a library that starts any container starts it, over several images.

`testcontainers` knows nothing of locks, labels and mounts of ours; what is left is the guest, its Python and the wire. Its reaper
is an image of its own, which cannot be had where nothing can be pulled: each test removes what it started.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from sandbox import wire
from sandbox.facts import guest_zip
from sandbox.plan import GUEST
from tests.docker.test_pythons import PYTHONS, SUITES, python_image

__all__ = ["python_image"]

pytestmark = pytest.mark.docker

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
STDOUT = 1


class Talk:
    """A host of a dozen lines: frames to the guest, and what comes back on an attached stream."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._decoder = wire.Decoder()
        self._waiting: list[wire.Frame] = []
        self._channel = 0

    def hello(self) -> dict[str, Any]:
        """What the guest says of itself."""
        self._line.sendall(wire.control_frame(wire.HELLO, 0, {"v": wire.VERSION}))
        return wire.object_of(self._next().payload)

    def ask(self, op: str, data: bytes = b"", **request: Any) -> tuple[dict[str, Any], bytes]:
        """One operation, fed with `data`: its verdict, and what it said on its first stream."""
        self._channel += 1
        self._line.sendall(wire.control_frame(wire.OPEN, self._channel, {"op": op, **request}))
        if data:
            self._line.sendall(wire.data_frame(self._channel, 1, data) + wire.frame(wire.END, self._channel))
        said = bytearray()
        while (frame := self._next()).kind != wire.CLOSE:
            if frame.kind == wire.DATA and frame.payload[0] == STDOUT:
                said += wire.data_of(frame.payload)
                self._line.sendall(wire.credit_frame(self._channel, len(frame.payload) - 1))
        return wire.object_of(frame.payload), bytes(said)

    def run(self, *argv: str, data: bytes = b"", **request: Any) -> tuple[dict[str, Any], bytes]:
        """One command."""
        return self.ask("spawn", data, argv=argv, env=ENV, stdin=bool(data), **request)

    def _next(self) -> wire.Frame:
        while not self._waiting:
            stream, count = struct.unpack(">BxxxI", self._take(8))  # the engine's own frames, around ours
            piece = self._take(count)
            assert stream == STDOUT, piece
            self._waiting = self._decoder.feed(piece)
        return self._waiting.pop(0)

    def _take(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            piece = self._line.recv(count - len(found))
            assert piece, "the guest has ended"
            found += piece
        return found


@contextmanager
def guest(image: str, cache: Path) -> Iterator[tuple[Talk, DockerContainer]]:
    """The guest as the first process of a container that is like any other."""
    testcontainers_config.ryuk_disabled = True
    container = DockerContainer(image).with_volume_mapping(str(guest_zip(cache)), GUEST, "ro")
    container.with_kwargs(entrypoint=["python3", "-I", "-S", GUEST], stdin_open=True, network_mode="none")
    with container:
        attached = container.get_wrapped_container().attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        line = attached._sock
        line.settimeout(30)
        try:
            yield Talk(line), container
        finally:
            line.close()
            attached.close()


def prove(image: str, cache: Path, wanted: tuple[int, ...] = ()) -> None:
    """Commands, their ends, input, files, and that all of it is over when nobody listens any more."""
    with guest(image, cache) as (talk, container):
        about = talk.hello()
        assert (about["v"], about["pid"]) == (wire.VERSION, 1)
        verdict, said = talk.run("python3", "-c", "import sys; print(*sys.version_info[:2]); sys.exit(7)")
        assert (verdict["reason"], verdict["exit_code"]) == ("exited", 7)
        version = tuple(map(int, said.split()))
        assert version >= (wanted or (3, 9))
        assert talk.run("cat", data=b"hello" * 9000)[1] == b"hello" * 9000
        assert talk.run("sleep", "60", timeout_s=0.2)[0]["reason"] == "timeout"
        assert talk.run("no-such-program")[0]["reason"] == "refused"
        script = "mkdir /tmp/d; printf content > /tmp/d/file; ln -s file /tmp/d/link; head -c 3000000 /dev/zero > /tmp/d/long"
        assert talk.run("sh", "-ec", script)[0]["reason"] == "exited"
        verdict, said = talk.ask("read", path="/tmp/d/long", max_bytes=1 << 22)
        assert (verdict["reason"], said) == ("ok", bytes(3_000_000))
        listed = wire.Records()
        listed.feed(talk.ask("list", path="/tmp/d")[1])
        assert sorted((row[1], row[2]) for row in listed.record()) == [("file", "file"), ("link", "link"), ("long", "file")]
        assert talk.run("sh", "-c", "setsid sleep 600 > /dev/null 2>&1 &")[0]["reason"] == "exited"
        inner = container.get_wrapped_container()
        assert [words[-1] for words in inner.top(ps_args="-o pid,args")["Processes"]] == [f"python3 -I -S {GUEST}"]
        talk._line.shutdown(socket.SHUT_WR)
        assert inner.wait(timeout=10)["StatusCode"] == 0


def test_the_guest_needs_what_only_our_launcher_gives(image: str, tmp_path: Path) -> None:
    """In the image of agents."""
    prove(image, tmp_path)


@pytest.mark.parametrize("suite", SUITES)
def test_the_guest_needs_what_only_one_image_has(suite: str, python_image: str, tmp_path: Path) -> None:
    """In others, each with the Python of its release."""
    prove(python_image, tmp_path, PYTHONS[suite][1])
