"""Files over the stream: filling drafts, taking snapshots, restoring them.

Everything that arrives is decoded as if the container were hostile: paths are checked, counts and sizes are bounded, hashes
are recomputed, and what was not asked for is not taken.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from sandbox import drafts
from sandbox.channels import Channel, Mux
from sandbox.contents import received
from sandbox.errors import GuestError, SandboxError, SnapshotError, SpecError
from sandbox.guest.holes import Extents, data_bytes, extents
from sandbox.plan import Fill, Plan
from sandbox.snapshot import (
    MAX_ENTRIES,
    MAX_NAMES,
    MAX_TOTAL_BYTES,
    Entry,
    Kind,
    Snapshot,
    check_path,
    check_target,
    check_tree,
    is_git_name,
    is_sha,
)
from sandbox.store import Store
from sandbox.wire import record

CHUNK = 256 * 1024
LARGE = 8 * 1024 * 1024
"""From here on it matters whether a content is hashed at both sides."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One changed path as the guest lists it, before any content crossed."""

    root: str
    path: str
    kind: Kind
    mode: int
    size: int
    target: str


ABANDON_S = 10.0


@asynccontextmanager
async def operation(channel: Channel) -> AsyncGenerator[Channel]:
    """Whoever leaves a file operation in the middle ends it at the other side too, and waits until it has cleaned up.

    Else its processes would stay stopped, or its staged files would stay in the project.
    """
    try:
        yield channel
    finally:
        if channel.verdict is None:
            with anyio.move_on_after(ABANDON_S, shield=True), contextlib.suppress(SandboxError):
                await channel.reset()
                await channel.finish()


# -- into the container ------------------------------------------------------------------------------------------


async def fill(mux: Mux, plan: Plan) -> None:
    """Send every draft its copy of the project, then let the guest remember how all roots look. Raises SpecError: unreachable."""
    await _reach(mux, plan)
    for draft in plan.fills:
        async with operation(await mux.open("apply", roots=[draft.root])) as channel:
            packed = _packed(draft)
            while piece := await anyio.to_thread.run_sync(next, packed, None):
                await channel.send(piece)
                if channel.verdict is not None:
                    break
            with _fitting(draft, channel, plan.limits.inodes):
                await channel.finish()
    marked = plan.roots if plan.lease is None or plan.lease.purpose == "direct" else ()
    overlays = [[o.root, o.upper, o.lower] for o in plan.overlays]
    if overlays:
        await (await mux.open("layers", overlays=overlays, limit_bytes=plan.limits.workspace_bytes)).finish()
    laid = {o.root for o in plan.overlays}
    listed = [root for root in marked if root not in laid]
    if listed:
        await (await mux.open("mark", roots=listed)).finish()


@contextlib.contextmanager
def _fitting(draft: Fill, channel: Channel, inodes: int) -> Iterator[None]:
    """What is copied has to fit: its bytes were counted, but files take whole pages, and their number has a limit, too."""
    try:
        yield
    except GuestError as error:
        if (channel.verdict or {}).get("errno") != errno.ENOSPC:
            raise
        raise SpecError(
            f"{draft.source} does not fit into a copy of at most {draft.limit_bytes // 1024**2} MiB and {inodes} files and"
            " folders; name a smaller folder, or raise sandbox.disk (--disk)",
            op="fill",
        ) from error


async def _reach(mux: Mux, plan: Plan) -> None:
    """Refuse what nobody inside could read: it, or a folder above it (of the image, of a read path), is closed to that uid."""
    channel = await mux.open("reach", paths=[m["path"] for m in plan.mounts])
    found = await channel.finish()
    if "closed" in found:
        raise SpecError(
            f"{found['path']} cannot be read inside: {found['closed']} is closed to uid {plan.uid}, who runs there. Open it "
            "(chmod o+rx), or where it is the image's own folder take another image, or show the path at another place",
            op="open",
        )


def _packed(draft: Fill) -> Iterator[bytes]:
    """Rows and contents of a project, in pieces of about CHUNK bytes. A file that vanishes meanwhile is left out."""
    piece = bytearray()
    total = 0
    with drafts.Files(draft.source) as files:
        for found in drafts.tree(draft.source, draft.withhold):
            row: list[object] = [0, found.path, found.kind, found.mode, found.size, found.target, found.mtime_ns]
            if found.kind != "file":
                piece += record(row)
            else:
                try:
                    fd, about = files.open(found.path)
                except OSError:
                    continue  # unreadable for us: invisible for agents
                try:
                    where = extents(fd, about)
                    if where and sum(where[-1]) > found.size:
                        where = None  # it has just grown
                    total += data_bytes(where, found.size)
                    if total > draft.limit_bytes:
                        raise SpecError(
                            f"{draft.source} holds more than {draft.limit_bytes // 1024**2} MiB; name a smaller folder, or raise"
                            " sandbox.disk",
                            op="fill",
                        )
                    piece += record(row if where is None else [*row, where])
                    for content in _contents(fd, found.size, where):
                        piece += content
                        if len(piece) >= CHUNK:
                            yield bytes(piece)
                            piece.clear()
                finally:
                    os.close(fd)
            if len(piece) >= CHUNK:
                yield bytes(piece)
                piece.clear()
    yield bytes(piece + record([]))


def _contents(fd: int, size: int, where: Extents | None) -> Iterator[bytes]:
    """As many bytes as were announced: of what shrinks meanwhile the snapshot's base will say so."""
    for offset, length in [(0, size)] if where is None else where:
        if offset:
            os.lseek(fd, offset, os.SEEK_SET)
        left = length
        while left > 0:
            chunk = os.read(fd, min(CHUNK, left)) or bytes(min(CHUNK, left))
            left -= len(chunk)
            yield chunk


async def restore(mux: Mux, roots: Sequence[str], snapshot: Snapshot, store: Store) -> None:
    """Make the roots look like a snapshot."""
    async with operation(await mux.open("apply", roots=list(roots))) as channel:
        await send_entries(channel, roots, in_order(snapshot.entries), store)
        await channel.finish()


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Removals first, deepest first; then folders before what they hold."""
    gone = sorted((e for e in entries if e.kind == "gone"), key=lambda e: (e.root, e.path), reverse=True)
    rest = sorted((e for e in entries if e.kind != "gone"), key=lambda e: (e.root, e.path))
    return gone + rest


async def send_entries(channel: Channel, roots: Sequence[str], entries: Sequence[Entry], store: Store) -> None:
    """Rows with contents, and the end of them. Raises SpecError, SnapshotError (a blob is gone, or is another one)."""
    pieces = _sent(roots, entries, store)
    while piece := await anyio.to_thread.run_sync(next, pieces, None):
        await channel.send(piece)


def _sent(roots: Sequence[str], entries: Sequence[Entry], store: Store) -> Iterator[bytes]:
    """Pieces of about CHUNK bytes; of a content that is not what its entry says at least the end is never sent."""
    piece = bytearray()
    for entry in entries:
        if entry.root not in roots:
            raise SpecError(f"{entry.root} is not a writable root of this sandbox", op="apply")
        row: list[object] = [roots.index(entry.root), entry.path, entry.kind, entry.mode, entry.size, entry.target, 0]
        if entry.kind != "file":
            piece += record(row)
        else:
            with store.blob(entry.sha256, entry.size) as blob:
                contents: Iterable[bytes] = blob.pieces()
                if blob.data_bytes <= CHUNK:
                    contents = tuple(contents)
                piece += record(row if blob.extents is None else [*row, blob.extents])
                for content in contents:
                    if len(content) < CHUNK:
                        piece += content
                    else:
                        if piece:
                            yield bytes(piece)
                            piece.clear()
                        yield content
        if len(piece) >= CHUNK:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + record([]))


# -- out of the container ------------------------------------------------------------------------------------------


async def listing(mux: Mux, path: str) -> tuple[Change, ...]:
    """Everything below a folder."""
    async with operation(await mux.open("list", path=path)) as channel:
        rows, _ = await _rows(channel, (path,))
        await channel.finish()
    return tuple(rows)


async def _rows(channel: Channel, roots: Sequence[str]) -> tuple[list[Change], list[str]]:
    """What changed, and the folders that could not be looked into."""
    changes: list[Change] = []
    closed: list[str] = []
    names = 0
    while rows := await channel.record():
        if not isinstance(rows, list) or len(changes) + len(closed) + len(rows) > MAX_ENTRIES:
            raise SnapshotError(
                f"more than {MAX_ENTRIES} changed paths; an agent that unpacks that much should be told to clean up"
            )
        for row in rows:
            match row:
                case [int(root), str(path), "closed"] if 0 <= root < len(roots):
                    check_path(path, git=True)
                    if not _inside_git(path):
                        closed.append(f"{roots[root]}/{path}".rstrip("/"))
                case _:
                    changes.append(_change(row, roots))
        names += sum(len(row[1]) + (0 if row[2] == "closed" else len(row[5])) for row in rows)
        if names > MAX_NAMES:
            raise SnapshotError(
                f"the names of what changed are longer than {MAX_NAMES} characters together; an agent that nests so deep should"
                " be told to clean up"
            )
    check_tree((change.root, change.path, change.kind) for change in changes)
    return changes, closed


def _change(row: object, roots: Sequence[str]) -> Change:
    match row:
        case [int(root), str(path), "file" | "link" | "dir" | "gone" as kind, int(mode), int(size), str(target), int()] if (
            0 <= root < len(roots) and size >= 0
        ):
            check_path(path, git=True)
            check_target(target)
            return Change(root=roots[root], path=path, kind=kind, mode=mode & 0o777, size=size, target=target)
        case _:
            raise SnapshotError(f"a container sent an unknown row: {str(row)[:200]}")


def _inside_git(path: str) -> bool:
    """An agent may keep a repository of its own in its draft: honest, and never part of a snapshot."""
    return any(map(is_git_name, path.split("/")))


async def snapshot(
    mux: Mux,
    roots: Sequence[str],
    store: Store,
    keep: Callable[[Sequence[Change]], Collection[int]] | None,
) -> Snapshot:
    """See `Sandbox.snapshot`."""
    async with operation(await mux.open("pack", roots=list(roots))) as channel:
        changes, closed = await _rows(channel, roots)
        clean = [i for i, c in enumerate(changes) if not _inside_git(c.path)]
        shown = [changes[i] for i in clean]
        kept = range(len(shown)) if keep is None else await anyio.to_thread.run_sync(lambda: sorted(keep(shown)))
        chosen = [clean[i] for i in kept]
        files = [i for i in chosen if changes[i].kind == "file"]
        if sum(changes[i].size for i in files) > MAX_TOTAL_BYTES:
            largest = max((changes[i] for i in files), key=lambda c: c.size)
            raise SnapshotError(
                f"an answer of more than {MAX_TOTAL_BYTES // 1024**2} MiB, holes included, is not taken; the largest file is"
                f" {largest.root}/{largest.path} with {largest.size // 1024**2} MiB"
            )
        new = _hardly_known(changes, files, store)
        await channel.send_record({"want": files, "unhashed": new})
        hashes = await _hashes(channel, set(files))
        lacking = [i for i in files if hashes.get(i) and not store.has(hashes[i])]
        unique = [*{hashes[i]: i for i in lacking}.values(), *(i for i in new if i not in hashes)]
        await channel.send_record({"want": unique})
        kept_as = await received(channel, store, [(hashes.get(i, ""), changes[i].size) for i in unique])
        hashes.update(zip(unique, kept_as, strict=True))
        if unique:
            await channel.send_record({"want": []})
        await channel.finish()
    entries = [
        Entry(root=c.root, path=c.path, kind=c.kind, mode=c.mode, size=c.size, sha256=hashes.get(i, ""), target=c.target)
        for i, c in ((i, changes[i]) for i in chosen)
        if c.kind != "file" or hashes.get(i)
    ]
    unreadable = [f"{changes[i].root}/{changes[i].path}".rstrip("/") for i in files if not hashes.get(i)]
    return Snapshot(entries=tuple(entries), left_out=(*unreadable, *closed))


def _hardly_known(changes: Sequence[Change], files: Sequence[int], store: Store) -> list[int]:
    """Large files whose size nothing else has, here or in what came before: hardly a hash could tell that they need not be sent.

    So the other side does not hash them first, which takes about as long as sending them; ours is taken as they arrive. A look
    at the sizes of the whole store would spare few more: what other runs left there is rarely made again.
    """
    sizes = Counter(changes[i].size for i in files if changes[i].size >= LARGE)
    new = [i for i in files if sizes[changes[i].size] == 1 and changes[i].size not in store.large_sizes]
    store.large_sizes.update(sizes)
    return new


async def _hashes(channel: Channel, wanted: Collection[int]) -> dict[int, str]:
    hashes: dict[int, str] = {}
    while rows := await record_list(channel):
        for row in rows:
            match row:
                case [int(i), str(sha)] if i in wanted and (not sha or is_sha(sha)):
                    hashes[i] = sha
                case _:
                    raise SnapshotError(f"a container sent an unknown hash: {str(row)[:120]}")
    return hashes


async def record_list(channel: Channel) -> list[Any]:
    """The next record, a list. Raises SnapshotError."""
    rows = await channel.record()
    if not isinstance(rows, list):
        raise SnapshotError(f"a container sent {str(rows)[:80]} where a list belongs")
    return rows
