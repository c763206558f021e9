"""Content-addressed storage of what agents made: blobs by SHA-256, snapshots by the hash of their entries.

Blobs are read-only files that the host alone writes; other folders may hold hard links to them, never the blob's own
inode opened for writing. A blob's bytes are checked when they arrive, not believed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from sandbox.errors import SnapshotError
from sandbox.snapshot import Snapshot, is_sha


class Store:
    """A folder of blobs and snapshot manifests. Synchronous: callers in a hurry use a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        (folder / "snapshots").mkdir(exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a blob lives, whether it exists or not."""
        if not is_sha(sha256):
            raise SnapshotError(f"{sha256[:80]!r} is not a SHA-256")
        return self.folder / "blobs" / sha256[:2] / sha256[2:]

    def has(self, sha256: str) -> bool:
        """Whether the blob is here."""
        return self.path(sha256).exists()

    def get(self, sha256: str) -> bytes:
        """The bytes. Raises SnapshotError when they are not here (removed by hand?)."""
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise SnapshotError(
                f"blob {sha256[:12]} is missing in {self.folder}; the run it belongs to cannot be replayed"
            ) from error

    def put(self, content: bytes) -> str:
        """Store bytes; returns their hash."""
        with self.writer() as writer:
            writer.write(content)
        return writer.sha256

    def writer(self) -> BlobWriter:
        """Store a stream: `with store.writer() as w: w.write(chunk)…`, then `w.sha256`."""
        return BlobWriter(self)

    def lacking(self, hashes: Iterable[str]) -> set[str]:
        """Which of these are not here."""
        return {h for h in hashes if not self.has(h)}

    def put_snapshot(self, snapshot: Snapshot) -> str:
        """Keep a manifest; returns the snapshot's id."""
        text = snapshot.to_json()
        path = self.folder / "snapshots" / snapshot.id
        if not path.exists():
            staged = path.with_name(f".{snapshot.id}.{os.getpid()}.{os.urandom(4).hex()}")
            with staged.open("w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            staged.rename(path)
        return snapshot.id

    def get_snapshot(self, snapshot_id: str) -> Snapshot:
        """The manifest. Raises SnapshotError when it is missing or no longer matches its id."""
        if len(snapshot_id) != 64 or not snapshot_id.isalnum():
            raise SnapshotError(f"{snapshot_id[:80]!r} is not a snapshot id")
        try:
            snapshot = Snapshot.from_json((self.folder / "snapshots" / snapshot_id).read_text(encoding="ascii"))
        except FileNotFoundError as error:
            raise SnapshotError(f"snapshot {snapshot_id[:12]} is missing in {self.folder}") from error
        except UnicodeDecodeError as error:
            raise SnapshotError(f"snapshot {snapshot_id[:12]} was altered on disk") from error
        if snapshot.id != snapshot_id:
            raise SnapshotError(f"snapshot {snapshot_id[:12]} was altered on disk")
        return snapshot


class BlobWriter:
    """One blob on its way in; gone without a trace when the block is left by an exception."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._digest = hashlib.sha256()
        self._staged = store.folder / "blobs" / f".in-{os.getpid()}-{os.urandom(8).hex()}"
        self._file: BinaryIO
        self.sha256 = ""
        """Set when the block ended well."""

    def __enter__(self) -> Self:
        self._file = self._staged.open("xb")
        return self

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """More bytes."""
        self._digest.update(chunk)
        self._file.write(chunk)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                sha256 = self._digest.hexdigest()
                path = self._store.path(sha256)
                if not path.exists():
                    self._file.flush()
                    os.fchmod(self._file.fileno(), 0o444)
                    os.fsync(self._file.fileno())
                    path.parent.mkdir(exist_ok=True)
                    self._staged.rename(path)
                self.sha256 = sha256
        finally:
            self._file.close()
            self._staged.unlink(missing_ok=True)
