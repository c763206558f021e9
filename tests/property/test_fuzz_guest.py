"""The guest's side of the stream against a host that says anything: it answers, or ends with WireError, and never hangs."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sandbox import wire
from sandbox.guest.serve import Guest
from sandbox.testing import Nobody
from sandbox.wire import WireError

HELLO = wire.control_frame(wire.HELLO, 0, {"v": 1, "silence_s": 60})
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["/p", "/p/a", "/p/d", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
OPERATIONS = ["list", "read", "mark", "pack", "apply", "commit", "recover", "stop", "go", "spawn", "listen", "accept", "x"]
REQUEST = st.fixed_dictionaries(
    {
        "op": st.sampled_from(OPERATIONS) | VALUE,
    },
    # No usable argv: what is fuzzed is the protocol, not the programs of this machine.
    optional={
        "path": VALUE,
        "port": st.integers(0, 3) | VALUE,
        "max_bytes": VALUE,
        "roots": st.lists(st.just("/p"), max_size=2) | VALUE,
        "mounts": st.lists(st.just("/p"), max_size=2) | VALUE,
        "stage": st.sampled_from(["s0", ""]) | VALUE.map(lambda v: str(v).replace("/", "")),
        "journal": st.text(max_size=2) | VALUE,
        "argv": st.sampled_from([[], [""], ["/no/such"], 7, ["a\0"]]),
        "env": st.sampled_from([{}, {"A": 1}, None, {"a\0": ""}]),
        "timeout_s": VALUE,
        "cwd": VALUE,
    },
)
# Paths stay below the root: the guest believes its host on those, and the host has checked them.
PATH = st.sampled_from(["a", "d", "d/x", "new", "n/e/w", "link", "link/x", "", "x" * 300, "a\0", "\udcff"])
ROW = st.tuples(
    st.integers(-2, 2),
    PATH,
    st.sampled_from(["file", "link", "dir", "gone", "dev"]),
    st.integers(-1, 0o7777),
    st.integers(-1, 4),
    st.sampled_from(["a", "\0", ""]),
    st.integers(-1, 2**70),
).map(list)
SAID = (
    ROW
    | st.fixed_dictionaries({"want": st.lists(st.integers(-3, 3), max_size=2) | VALUE})
    | st.just({"go": True})
    | st.just([])
    | VALUE
)
CHANNEL = st.integers(0, 3)
FRAME = (
    st.builds(lambda c, r: wire.control_frame(wire.OPEN, c, r), CHANNEL, REQUEST)
    | st.builds(lambda c, v, s: wire.data_frame(c, s, wire.record(v)), CHANNEL, SAID, st.integers(0, 3))
    | st.builds(lambda c, b: wire.data_frame(c, 1, b), CHANNEL, st.binary(max_size=6))
    | st.builds(wire.credit_frame, CHANNEL, st.integers(0, 2**32 - 1))
    | st.builds(wire.frame, st.integers(0, 9), CHANNEL, st.binary(max_size=6))
)


def serve(stream: bytes) -> None:
    """A guest that hears this and then its host's end."""
    folder = Path(tempfile.mkdtemp(prefix="massgen-fuzz-"))
    project = folder / "p"
    (project / "d").mkdir(parents=True)
    (project / "a").write_text("a")
    (project / "link").symlink_to("d")
    ours, theirs = socket.socketpair()
    theirs.settimeout(None)
    fd = os.dup(theirs.fileno())
    world = Nobody({"/": str(folder / "root"), "/p": str(project)})
    guest = Guest(theirs.fileno(), fd, world)
    threading.Thread(target=_host, args=(ours, stream), daemon=True).start()
    try:
        guest.serve()
    except WireError:
        pass
    finally:
        assert len(guest._decoder) <= wire.MAX_PAYLOAD + 9
        guest.close()
        theirs.close()
        os.close(fd)
        alive = [t for t in guest._channels.values() if getattr(t, "_thread", None) and t._thread.is_alive()]
        shutil.rmtree(folder)
        assert not alive


def _host(stream: socket.socket, said: bytes) -> None:
    with stream:
        try:
            stream.sendall(said)
            stream.shutdown(socket.SHUT_WR)
            while stream.recv(65536):
                pass
        except OSError:
            return


@given(st.lists(FRAME | st.binary(max_size=8), max_size=10))
def test_a_host_that_lies_crashes_its_guest(frames: list[bytes]) -> None:
    """Requests, rows, credit and bytes of any shape, in any order."""
    serve(HELLO + b"".join(frames))


@given(
    st.lists(
        st.builds(
            lambda b: wire.control_frame(wire.HELLO, 0, b),
            st.dictionaries(st.sampled_from(["v", "silence_s"]), VALUE | st.just(1)),
        ),
        max_size=2,
    ),
    st.binary(max_size=40),
)
def test_a_stranger_instead_of_a_host_crashes_the_guest(hello: list[bytes], more: bytes) -> None:
    """The first frame is a good hello, or the end with WireError."""
    serve(b"".join(hello) + more)


@given(REQUEST, st.lists(SAID, max_size=8))
def test_one_operation_with_any_answers_crashes_its_guest(request: dict, said: list) -> None:
    """A request that begins well may go on in any way."""
    rows = b"".join(wire.data_frame(1, 1, wire.record(v)) for v in said if v is not None)
    serve(HELLO + wire.control_frame(wire.OPEN, 1, request) + rows)
