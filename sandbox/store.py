"""Content-addressed storage of what agents made: blobs by SHA-256, snapshots by the hash of their entries.

Blobs are read-only files that the host alone writes; other folders may hold hard links to them, never the blob's own
inode opened for writing. A blob's bytes are checked when they arrive, and once more when they are used: disks rot, and people
edit. That costs a hash per use; a list of checked blobs would have to be believed instead.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from sandbox import scratch
from sandbox.blobs import Blob, BlobWriter, Intake, altered, missing, on_disk
from sandbox.errors import SnapshotError
from sandbox.snapshot import Snapshot, is_sha


class Store:
    """A folder of blobs and snapshot manifests. Synchronous: callers in a hurry use a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.large_sizes: set[int] = set()
        """Of the large contents that arrived here by snapshots, as long as this value lives."""
        with on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            about = folder.stat()
            # Blobs are 0444, for containers; what they were read from may have been private.
            if about.st_mode & 0o077 and about.st_uid == os.geteuid():
                folder.chmod(about.st_mode & 0o700)
            (folder / "blobs").mkdir(exist_ok=True)
            (folder / "snapshots").mkdir(exist_ok=True)

    @staticmethod
    def staging(folder: Path) -> tuple[Path, Path]:
        """Where a writer that was killed leaves what it had not finished: for `scratch.bury`."""
        return folder / "blobs", folder / "snapshots"

    def path(self, sha256: str) -> Path:
        """Where a blob lives, whether it exists or not."""
        if not is_sha(sha256):
            raise SnapshotError(f"{sha256[:80]!r} is not a SHA-256")
        return self.folder.joinpath("blobs", sha256[:2], sha256[2:])

    def has(self, sha256: str) -> bool:
        """Whether the blob is here."""
        return self.path(sha256).exists()

    def get(self, sha256: str) -> bytes:
        """The bytes. Raises SnapshotError when they are not here (removed by hand?), or no longer what was stored."""
        path = self.path(sha256)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise missing(path, sha256) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise altered(sha256)
        return content

    def blob(self, sha256: str, size: int) -> Blob:
        """The same piece by piece, holes apart: `with store.blob(sha256, size) as blob: …`. Raises SnapshotError."""
        return Blob(self.path(sha256), sha256, size)

    def put(self, content: bytes) -> str:
        """Store bytes; returns their hash."""
        with self.writer() as writer:
            writer.write(content)
        return writer.sha256

    def writer(self) -> BlobWriter:
        """Store a stream: `with store.writer() as w: w.write(chunk)…`, then `w.sha256`."""
        return BlobWriter(self.folder / "blobs")

    def intake(self) -> Intake:
        """Store many: `with store.intake() as intake: …; intake.flush()`."""
        return Intake(self.folder / "blobs")

    def lacking(self, hashes: Iterable[str]) -> set[str]:
        """Which of these are not here."""
        return {h for h in hashes if not self.has(h)}

    def put_snapshot(self, snapshot: Snapshot) -> str:
        """Keep a manifest; returns the snapshot's id. Of equal ones, the last that names what it left out stays."""
        path = self.folder / "snapshots" / snapshot.id
        if path.exists() and not snapshot.left_out:
            return snapshot.id
        with on_disk(self.folder):
            scratch.write(path, snapshot.to_json().encode("ascii"))
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
