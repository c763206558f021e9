"""The host's side of the stream against a guest that says anything: a value or a typed error, and bounded memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
from hypothesis import given
from hypothesis import strategies as st

from sandbox import wire
from sandbox.channels import Mux
from sandbox.errors import SandboxError, SnapshotError
from sandbox.snapshot import Entry, Snapshot, check_path
from sandbox.spec import Lease
from sandbox.store import Store
from sandbox.transaction import commit, recover
from sandbox.transfer import _change, listing, restore, snapshot
from tests.support.boxes import sha

HELLO = wire.control_frame(wire.HELLO, 0, {"v": 1})
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([sha("x"), "", "a/../b", ".git"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NUMBER = st.integers(-2, 3) | st.integers()
PATH = st.sampled_from(["a", "b/c", "", "..", "/etc/passwd", ".git/x", "x" * 5000, "\ud800", "a\0", "\udcff"]) | st.text(
    max_size=4
)
ROW = (
    st.tuples(NUMBER, PATH, st.sampled_from(["file", "link", "dir", "gone", "dev"]), NUMBER, NUMBER, PATH, NUMBER).map(list)
    | JSON
)
STATE = st.fixed_dictionaries(
    {"kind": st.sampled_from(["none", "file", "dir", "link", "blocked", "other"])},
    optional={"mode": JSON, "size": NUMBER | JSON, "sha256": JSON, "target": JSON, "foreign": st.booleans()},
)
SAID = (
    st.lists(ROW, max_size=3)
    | st.lists(st.tuples(NUMBER, st.sampled_from([sha("x"), sha(""), "", "x"]) | JSON).map(list), max_size=3)
    | st.lists(st.tuples(NUMBER, STATE).map(list), max_size=3)
    | st.just([])
    | st.fixed_dictionaries({"size": NUMBER | JSON})
    | JSON
)
VERDICT = st.fixed_dictionaries(
    {"reason": st.sampled_from(["ok", "error", "killed", "lost"]) | JSON}, optional={"written": JSON, "torn": JSON}
) | st.dictionaries(st.sampled_from(["reason", "refused", "why", "message", "path"]), JSON, max_size=4)
FRAME = (
    SAID.map(lambda v: wire.data_frame(1, 1, wire.record(v)))
    | st.binary(max_size=4).map(lambda b: wire.data_frame(1, 2, b))
    | VERDICT.map(lambda v: wire.control_frame(wire.CLOSE, 1, v))
    | st.builds(wire.credit_frame, st.integers(0, 2), st.integers(0, 2**32 - 1))
    | st.builds(wire.frame, st.integers(0, 255), st.integers(0, 3), st.binary(max_size=8))
)
STREAM = st.lists(FRAME | st.binary(max_size=12), max_size=10).map(b"".join)
CUTS = st.lists(st.integers(0, 4000), max_size=6)
FLIPS = st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=3)

GOOD = b"".join(
    [
        wire.data_frame(1, 1, wire.record([[0, "a", "file", 0o644, 1, "", 5], [0, "l", "link", 0o777, 0, "a", 5]])),
        wire.data_frame(1, 1, wire.record([])),
        wire.data_frame(1, 1, wire.record([[0, sha("x")]])),
        wire.data_frame(1, 1, wire.record([])),
        wire.data_frame(1, 1, wire.record({"size": 1}) + b"x"),
        wire.control_frame(wire.CLOSE, 1, {"reason": "ok"}),
    ]
)


class Liar:
    """A link whose other end says hello, waits for the first operation, then says what it likes."""

    container = "liar"

    def __init__(self, stream: bytes, cuts: list[int], hello: bytes = HELLO) -> None:
        at = sorted({0, len(stream), *(c % (len(stream) + 1) for c in cuts)})
        self._pieces = [hello, *(stream[a:b] for a, b in pairwise(at) if a < b)]
        self._asked = anyio.Event()
        self.heard = 0

    def offer(self, data: bytes) -> int:
        """Listens."""
        self.heard += len(data)
        if data[0] == wire.OPEN:
            self._asked.set()
        return len(data)

    async def send(self, data: bytes) -> None:
        """The same."""
        self.offer(data)

    async def pump(self, take: Callable[[bytes | memoryview], None]) -> None:
        """Says."""
        for number, piece in enumerate(self._pieces):
            if number == 1 and self._pieces[0] == HELLO:
                await self._asked.wait()
            await anyio.lowlevel.checkpoint()
            take(piece)

    def last_words(self) -> str:
        """Nothing."""
        return ""

    async def aclose(self) -> None:
        """Nothing."""


def talk(liar: Liar, ask: Callable[[Mux], Coroutine[Any, Any, object]]) -> None:
    """One operation against it: a result or a SandboxError, nothing else, and no channel that keeps more than its window."""

    async def main() -> None:
        with anyio.fail_after(20):
            mux = Mux(liar)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mux.read_forever)
                try:
                    await mux.greet(0)
                    await ask(mux)
                except SandboxError:
                    pass
                held = [sum(len(c) for _, c in channel._inbox) for channel in mux._channels.values()]
                assert all(count <= wire.WINDOW for count in held)
                tasks.cancel_scope.cancel()
            assert len(mux._decoder) <= wire.MAX_PAYLOAD + 9

    anyio.run(main)


def ask_for(what: str, folder: Path) -> Callable[[Mux], Coroutine[Any, Any, object]]:
    """An operation by name."""
    store = Store(folder)
    root = "/p"
    snap = Snapshot(entries=(Entry(root=root, path="a", kind="file", mode=0o644, size=1, sha256=store.put(b"y")),))
    lease = Lease.grant(run_id="r", agent="a", snapshot_id=snap.id, purpose="apply", paths=(Path(root),))
    match what:
        case "list":
            return lambda mux: listing(mux, "/p")
        case "snapshot":
            return lambda mux: snapshot(mux, (root, "/workspace"), store, None)
        case "restore":
            return lambda mux: restore(mux, (root,), snap, store)
        case "recover":
            given = {"stage": "s", "journal": "", "snapshot": snap, "undo": Snapshot(entries=())}
            return lambda mux: recover(mux, lease, store, mounts=[root], **given)
        case _:
            return lambda mux: commit(mux, lease, snap, store, {(root, "a"): ""}, mounts=[root], ready=None)


WHAT = st.sampled_from(["list", "snapshot", "restore", "commit", "recover"])


@given(WHAT, STREAM, CUTS)
def test_a_guest_that_lies_crashes_its_host(what: str, stream: bytes, cuts: list[int]) -> None:
    """Records, verdicts, credit and bytes of any shape, in any order."""
    folder = Path(tempfile.mkdtemp())
    try:
        talk(Liar(stream, cuts), ask_for(what, folder))
        assert not list((folder / "blobs").glob(".*"))
    finally:
        shutil.rmtree(folder)


@given(WHAT, FLIPS, CUTS, st.integers(0, 4000))
def test_a_good_stream_with_some_bytes_changed_crashes_its_host(what: str, flips: list, cuts: list[int], end: int) -> None:
    """Nearest to what a real container sends."""
    stream = bytearray(GOOD)
    for place, by in flips:
        stream[place % len(stream)] ^= by
    folder = Path(tempfile.mkdtemp())
    try:
        talk(Liar(bytes(stream[: max(1, end)]), cuts), ask_for(what, folder))
    finally:
        shutil.rmtree(folder)


@given(st.binary(max_size=60) | STREAM, CUTS)
def test_a_stranger_instead_of_a_guest_crashes_the_host(hello: bytes, cuts: list[int]) -> None:
    """What answers need not be a guest at all."""
    talk(Liar(b"", cuts, hello), lambda mux: listing(mux, "/p"))


@given(ROW, st.lists(st.sampled_from(["/p", "/workspace"]), max_size=2))
def test_a_row_that_is_no_change_gets_through(row: object, roots: list[str]) -> None:
    """A change below one of the roots, or SnapshotError."""
    try:
        change = _change(row, roots)
    except SnapshotError:
        return
    assert change.root in roots
    assert check_path(change.path, git=True) == change.path
    assert change.size >= 0
    assert 0 <= change.mode <= 0o777
