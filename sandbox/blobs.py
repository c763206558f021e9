"""One content on its way into a store or out of it: hashed as it passes, its holes kept, never whole in memory.

A blob gets its name when all of it is on the disk. Flushing is most of the cost of small ones, and the disk does many at once
as fast as one: so contents that arrive together are flushed together, by several threads. What does not arrive whole leaves
no file, and a disk that takes no more is the host's trouble, told as such.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox import scratch
from sandbox.errors import SnapshotError, StoreError
from sandbox.guest.holes import ZEROS, Extents, data_bytes, extents

CHUNK = 1024 * 1024
"""Read at once: less means waiting more often for the thread that reads."""
TOGETHER = 128
"""Blobs that are flushed at once."""
FLUSHERS = 8

Piece = bytes | bytearray | memoryview


@contextlib.contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Says of the host's disk what is the host's disk's."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(
            f"{folder} could not keep a content: {why}; make room there, or name another folder", op="store"
        ) from error


class BlobWriter:
    """One blob on its way in; gone without a trace when the block is left by an exception."""

    def __init__(self, blobs: Path) -> None:
        self._blobs = blobs
        self._digest = hashlib.sha256()
        self._staged = blobs / scratch.hidden()
        self._fd = -1
        self._hole = False
        self.size = 0
        """Bytes so far, holes included."""
        self.sha256 = ""
        """Set when the block ended well."""

    def __enter__(self) -> Self:
        with on_disk(self._blobs):
            self._fd = os.open(self._staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self

    def write(self, *pieces: Piece) -> None:
        """More bytes. Raises StoreError."""
        for piece in pieces:
            self._digest.update(piece)
            self.size += len(piece)
            self._hole = False
            view = memoryview(piece)
            with on_disk(self._blobs):
                while view:
                    view = view[os.write(self._fd, view) :]

    def skip(self, count: int) -> None:
        """So many zeros, which take no room."""
        if count <= 0:
            return
        for at in range(0, count, len(ZEROS)):
            self._digest.update(ZEROS[: count - at])
        self.size += count
        self._hole = True
        os.lseek(self._fd, count, os.SEEK_CUR)

    def finish(self) -> str:
        """No more bytes; the hash. It is not kept yet."""
        if self._hole:
            with on_disk(self._blobs):
                os.ftruncate(self._fd, self.size)
        return self._digest.hexdigest()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            keep((self,))
        else:
            self.drop()

    def flush(self) -> None:
        """All of it onto the disk, read-only. Raises OSError."""
        os.fchmod(self._fd, 0o444)
        os.fsync(self._fd)

    def place(self, sha256: str) -> None:
        """Under its name. Raises OSError."""
        path = self._blobs / sha256[:2] / sha256[2:]
        path.parent.mkdir(exist_ok=True)
        self._staged.rename(path)
        self.sha256 = sha256
        os.close(self._fd)
        self._fd = -1

    def drop(self) -> None:
        """Away with it; harmless when it is kept already."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                self._staged.unlink()


def keep(writers: Sequence[BlobWriter]) -> None:
    """Finish them all and keep what is new; what cannot be kept is dropped. Raises StoreError."""
    try:
        new: dict[str, BlobWriter] = {}
        for writer in writers:
            sha256 = writer.finish()
            if (writer._blobs / sha256[:2] / sha256[2:]).exists():  # noqa: SLF001 - one module
                writer.sha256 = sha256
            else:
                new[sha256] = writer
        with on_disk(writers[0]._blobs if writers else Path()):  # noqa: SLF001 - same
            if len(new) == 1:
                next(iter(new.values())).flush()
            elif new:
                with ThreadPoolExecutor(min(FLUSHERS, len(new))) as pool:
                    list(pool.map(BlobWriter.flush, new.values()))
            for sha256, writer in new.items():
                writer.place(sha256)
    finally:
        for writer in writers:
            writer.drop()


class Intake:
    """Blobs that arrive together, each with the hash that it must have. What is waiting when the block ends is dropped.

    All calls block: they are for one thread.
    """

    def __init__(self, blobs: Path) -> None:
        self._blobs = blobs
        self._waiting: list[BlobWriter] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._waiting:
            writer.drop()

    def whole(self, contents: Iterable[tuple[str, Sequence[Piece]]]) -> None:
        """Take several. Raises SnapshotError when one has another hash, StoreError."""
        for sha256, pieces in contents:
            self.begin()
            self.write(*pieces)
            self.end(sha256)

    def begin(self) -> None:
        """The next one. Raises StoreError."""
        self._waiting.append(BlobWriter(self._blobs).__enter__())

    def write(self, *pieces: Piece) -> None:
        """More bytes of it. Raises StoreError."""
        self._waiting[-1].write(*pieces)

    def skip_to(self, at: int) -> None:
        """Zeros up to there, which take no room."""
        writer = self._waiting[-1]
        writer.skip(at - writer.size)

    def end(self, sha256: str) -> str:
        """Its hash. Raises SnapshotError when another one was announced (not ""), StoreError."""
        found = self._waiting[-1].finish()
        if sha256 and found != sha256:
            raise SnapshotError("a file does not have the hash that the container announced")
        self.flush(at_least=TOGETHER)
        return found

    def flush(self, *, at_least: int = 1) -> None:
        """Keep what is waiting, if it is so many. Raises StoreError."""
        if len(self._waiting) >= at_least:
            waiting, self._waiting = self._waiting, []
            keep(waiting)


class Blob:
    """One blob on its way out, of the size and hash that its entry says. Raises SnapshotError for any other."""

    def __init__(self, path: Path, sha256: str, size: int) -> None:
        self.sha256 = sha256
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise missing(path, sha256) from error
        about = os.fstat(self._fd)
        self.size = about.st_size
        try:
            if self.size != size:
                raise SnapshotError(f"blob {sha256[:12]} has {self.size} bytes, its entry says {size}")
            self.extents: Extents | None = extents(self._fd, about)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def data_bytes(self) -> int:
        """How much `pieces` yields."""
        return data_bytes(self.extents, self.size)

    def pieces(self) -> Iterator[bytes]:
        """All data. The last piece comes only when the whole has the right hash, so that nobody gets all of a wrong one."""
        digest = hashlib.sha256()
        held = b""
        at = 0
        for offset, length in [(0, self.size)] if self.extents is None else self.extents:
            _zeros(digest, offset - at)
            os.lseek(self._fd, offset, os.SEEK_SET)
            at, left = offset + length, length
            while left > 0 and (piece := os.read(self._fd, min(CHUNK, left))):
                left -= len(piece)
                digest.update(piece)
                if held:
                    yield held
                held = piece
        _zeros(digest, self.size - at)
        if digest.hexdigest() != self.sha256:
            raise altered(self.sha256)
        if held:
            yield held


def _zeros(digest: hashlib._Hash, count: int) -> None:
    for at in range(0, count, len(ZEROS)):
        digest.update(ZEROS[: count - at])


def missing(path: Path, sha256: str) -> SnapshotError:
    """It was removed, by hand perhaps."""
    return SnapshotError(
        f"blob {sha256[:12]} is missing in {path.parents[2]}; the run it belongs to cannot be replayed", op="store"
    )


def altered(sha256: str) -> SnapshotError:
    """It is not what was stored."""
    return SnapshotError(f"blob {sha256[:12]} was altered on disk; it is not used, take what belongs to it from another run")
