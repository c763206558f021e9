"""The host's half of a lease's transaction, and of its recovery: what is expected, what was there, and when the guest may go.

The guest is believed in nothing that can be checked: every path, hash and size it reports is compared with what was asked, and
the preimages are in the store before the first byte of the project changes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import anyio
import anyio.to_thread

from sandbox import contents, transfer
from sandbox.channels import Channel, Mux
from sandbox.errors import Drift, GuestError, LeaseError, SnapshotError
from sandbox.snapshot import Entry, Snapshot, is_sha
from sandbox.spec import WORKSPACE, Lease
from sandbox.store import Store

WRITE_S = 60.0
"""For the renames of a transaction, contents being staged already; beyond it the sandbox is given up."""

Ready = Callable[[Snapshot, str], None]
"""Called in a worker thread with the undo snapshot and the journal's hash, both on the disk, before the project changes."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What became of a write that was killed in its middle."""

    written: bool
    """True: the project holds all of it. False: it is as it was before."""
    torn: tuple[str, ...] = ()
    """Paths that somebody changed since the kill; they were left alone."""


async def commit(
    mux: Mux,
    lease: Lease,
    snapshot: Snapshot,
    store: Store,
    expected: Mapping[tuple[str, str], str],
    *,
    mounts: Sequence[str],
    ready: Ready | None,
) -> Snapshot:
    """See `Sandbox.commit` and `guest/commit.py`."""
    roots = [str(p) for p in lease.paths]
    entries = [e for e in transfer.in_order(snapshot.entries) if e.root != WORKSPACE]
    for entry in entries if lease.purpose != "undo" else ():  # what undo puts back was the user's own, wherever it points
        _check_link(entry)
    async with transfer.operation(await mux.open("commit", roots=roots, mounts=list(mounts), stage=lease.stage)) as channel:
        await transfer.send_entries(channel, roots, entries, store)
        states = await _states(channel, len(entries))
        _check_states(entries, states, expected)
        preimages = {i: s for i, s in enumerate(states) if s.get("kind") == "file"}
        lacking = [i for i, s in preimages.items() if not store.has(str(s["sha256"]))]
        await channel.send_record({"want": lacking})
        await contents.received(channel, store, [(str(states[i]["sha256"]), int(states[i]["size"])) for i in lacking])
        undo = Snapshot(entries=tuple(_preimage(e, s) for e, s in zip(entries, states, strict=True)))
        await anyio.to_thread.run_sync(store.put_snapshot, undo)
        journal = await _journal(channel)
        if ready is not None:
            await anyio.to_thread.run_sync(ready, undo, journal)
        with anyio.move_on_after(WRITE_S, shield=True):  # leaving in the middle would leave the project half written
            await channel.send_record({"go": True})
            await channel.finish()
        verdict = channel.check()
    if verdict.get("torn"):
        raise GuestError(f"half written, and could not be put back: {verdict['torn']}: {verdict.get('why')}", op="commit")
    if not verdict.get("written"):
        paths = tuple(str(p) for p in verdict.get("refused", ()))
        raise Drift(f"nothing was written: {', '.join(paths)}: {verdict.get('why', 'refused')}", paths=paths)
    return undo


async def _journal(channel: Channel) -> str:
    match await channel.record():
        case {"journal": str(sha)} if is_sha(sha):
            return sha
        case other:
            raise SnapshotError(f"a container sent {str(other)[:80]} where the hash of its journal belongs")


async def recover(
    mux: Mux,
    lease: Lease,
    store: Store,
    *,
    stage: str,
    journal: str,
    snapshot: Snapshot,
    undo: Snapshot | None,
    mounts: Sequence[str],
) -> Recovered:
    """See `Sandbox.recover` and `guest/recover.py`."""
    roots = [str(p) for p in lease.paths]
    entries = [e for e in transfer.in_order(snapshot.entries) if e.root in roots]
    before = {(e.root, e.path): e for e in undo.entries} if undo else {}
    request = {"roots": roots, "mounts": list(mounts), "stage": stage, "journal": journal}
    async with transfer.operation(await mux.open("recover", **request)) as channel:
        for entry in entries:
            await channel.send_record([roots.index(entry.root), entry.path, entry.kind, entry.mode, 0, entry.target, 0])
        await channel.send_record([])
        match await channel.record():
            case {"end": "forward" | "back" | "" as end}:
                pass
            case other:
                raise SnapshotError(f"a container sent {str(other)[:80]} where the end of a recovery belongs")
        states = dict(zip(entries, await _states(channel, len(entries)), strict=True))
        forward = end == "forward" or (end == "" and _is_done(states, before))
        wanted = {e: e if forward else before.get((e.root, e.path), e) for e in entries}
        odd = [e for e, state in states.items() if (forward or undo) and not _holds(wanted[e], state)]
        # A root that is one file was being overwritten: what is there is the beginning of one of the two.
        cut = [e for e in odd if not e.path and await anyio.to_thread.run_sync(_is_cut, states[e], (e, wanted[e]), store)]
        await transfer.send_entries(channel, roots, [wanted[e] for e in cut], store)
        verdict = await channel.finish()
    torn = {str(path) for path in verdict.get("torn") or ()} | {f"{e.root}/{e.path}".rstrip("/") for e in odd if e not in cut}
    return Recovered(written=forward, torn=tuple(sorted(torn)))


def _is_done(states: Mapping[Entry, Mapping[str, Any]], before: Mapping[tuple[str, str], Entry]) -> bool:
    """Without a journal nothing below a folder is half done: what holds the new alone, or the old alone, tells which it is.

    Only roots that are one file may be: those all hold the new, or it is not done.
    """
    told = []
    for entry, state in states.items():
        old = before.get((entry.root, entry.path))
        if entry.path and old and _holds(entry, state) != _holds(old, state):
            told.append(_holds(entry, state))
    return any(told) if told else all(_holds(e, s) for e, s in states.items())


def _holds(entry: Entry, state: Mapping[str, Any]) -> bool:
    """Whether a path is as an entry says."""
    match entry.kind:
        case "gone":
            return state["kind"] in ("none", "blocked", "dir")  # a folder stays when it holds what no agent was shown
        case "link":
            return _signature(state) == f"link:{entry.target}"
        case "file":
            return (_signature(state), int(state.get("mode", 0)) & 0o777) == (entry.sha256, entry.mode)
        case "dir":
            return bool(state["kind"] == "dir") and int(state["mode"]) & 0o777 == entry.mode


def _is_cut(state: Mapping[str, Any], wholes: Iterable[Entry], store: Store) -> bool:
    """Whether a file holds the beginning of one of these, all of it included."""
    if state.get("kind") != "file":
        return False
    size = int(state["size"])
    return any(
        size <= e.size and sha256(store.get(e.sha256)[:size]).hexdigest() == state["sha256"] for e in wholes if e.kind == "file"
    )


def _check_link(entry: Entry) -> None:
    """A link that points out of its root would hand the next writer somebody else's file."""
    if entry.kind != "link":
        return
    landed = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.target))
    if entry.target.startswith("/") or landed == ".." or landed.startswith("../"):
        raise LeaseError(
            f"{entry.root}/{entry.path} is a link to {entry.target}, outside of its folder; it is not written", op="commit"
        )


async def _states(channel: Channel, count: int) -> list[dict[str, Any]]:
    states: list[dict[str, Any]] = []
    while rows := await transfer.record_list(channel):
        for row in rows:
            match row:
                case [int(i), {"kind": str()} as state] if i == len(states) < count:
                    states.append(state)
                case _:
                    raise SnapshotError(f"a container sent an unknown state: {str(row)[:120]}")
    if len(states) != count:
        raise SnapshotError(f"a container described {len(states)} of {count} paths")
    return states


def _check_states(entries: Sequence[Entry], states: Sequence[Mapping[str, Any]], expected: Mapping[tuple[str, str], str]) -> None:
    drifted: list[str] = []
    foreign: list[str] = []
    lossy: list[str] = []
    pairs = list(zip(entries, states, strict=True))
    becoming = {(e.root, e.path) for e, s in pairs if e.kind == "dir" and s["kind"] in ("file", "link")}
    for entry, state in pairs:
        place = f"{entry.root}/{entry.path}".rstrip("/")
        if state.get("foreign") and entry.kind != "dir":
            foreign.append(place)
        if state.get("lossy"):
            lossy.append(f"{place} ({state['lossy']})")
        want = expected.get((entry.root, entry.path))
        have = _signature(state)
        if have == "blocked" and any((entry.root, above) in becoming for above in _above(entry.path)):
            have = ""  # what is in the way becomes a folder in this very transaction
        if want is None:
            raise LeaseError(f"no expectation for {place}; every touched path needs one", op="commit")
        if have != want and not (entry.kind == "dir" and have == "dir") and not (entry.kind == "gone" and have == ""):
            drifted.append(place)
    if foreign:
        raise LeaseError(f"these files belong to another user and are not written: {', '.join(foreign)}", op="commit")
    if lossy:
        raise LeaseError(f"these files would lose what no write can keep, and are not written: {', '.join(lossy)}", op="commit")
    if drifted:
        raise Drift(f"changed since the agents saw them, nothing was written: {', '.join(drifted)}", paths=tuple(drifted))


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _signature(state: Mapping[str, Any]) -> str:
    match state.get("kind"):
        case "none":
            return ""
        case "file":
            return str(state.get("sha256"))
        case "link":
            return f"link:{state.get('target')}"
        case kind:
            return str(kind)


def _preimage(entry: Entry, state: Mapping[str, Any]) -> Entry:
    """What puts one path back."""
    mode = int(state.get("mode", 0)) & 0o777
    match state.get("kind"):
        case "file":
            size, sha = int(state["size"]), str(state["sha256"])
            return Entry(root=entry.root, path=entry.path, kind="file", mode=mode, size=size, sha256=sha)
        case "link":
            return Entry(root=entry.root, path=entry.path, kind="link", target=str(state["target"]))
        case "dir":
            return Entry(root=entry.root, path=entry.path, kind="dir", mode=mode)
        case _:
            return Entry(root=entry.root, path=entry.path, kind="gone")
