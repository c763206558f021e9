"""`/peers`: what the agents answered, as read-only folders that appear complete or not at all.

One host folder per run, mounted read-only in every agent. `agent2.1/` holds `answer.md`, `changes.patch` and
`files/<absolute path>` with each changed file; it is built aside and renamed into place, and never changes
again. `verify.json` joins later, by rename. The folder itself is never replaced (a replaced one would not be
seen), links are written as text (a link would lead out of the folder), and blobs are hard-linked from the
store where their mode fits: the host never locks or changes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from massgen.events.types import Verified
from sandbox.patch import Patch
from sandbox.snapshot import Entry, Snapshot
from sandbox.store import Store


class Peers:
    """The folder of one run. Blocks for the disk: prepare in a worker thread, publish is one rename."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder / "shown"
        """To be mounted at `/peers`."""
        self._aside = folder / "aside"
        self._store = store
        for path in (self.folder, self._aside):
            path.mkdir(parents=True)
        # Agents have another uid than the caller; a umask must not hide the folder from them.
        self.folder.chmod(0o755)

    def prepare(self, answer: str, text: str, snapshot: Snapshot, patch: Patch) -> None:
        """Build the folder of one answer where no agent sees it. A leftover of a cancelled try is replaced."""
        folder = self._aside / answer
        shutil.rmtree(folder, ignore_errors=True)
        made: set[Path] = set()
        _make(folder, made)
        _write(folder / "answer.md", text.encode("utf-8", "replace"))
        _write(folder / "changes.patch", patch.text.encode("utf-8", "surrogateescape"))
        for entry in snapshot.entries:
            if entry.kind in ("file", "link"):
                target = folder / f"files{entry.root}/{entry.path}"
                _make(target.parent, made)
                self._place(entry, target)

    def publish(self, answer: str) -> None:
        """Show a prepared answer: one rename."""
        (self._aside / answer).rename(self.folder / answer)

    def add_verdict(self, verdict: Verified) -> None:
        """Lay `verify.json` beside the answer, by rename. Nothing happens for `base` and `final`."""
        folder = self.folder / verdict.answer
        if not folder.is_dir():
            return
        aside = self._aside / f"{verdict.answer}.verify.json"
        _write(aside, json.dumps(asdict(verdict), indent=2).encode())
        aside.rename(folder / "verify.json")

    def _place(self, entry: Entry, target: Path) -> None:
        if entry.kind == "link":
            _write(target, f"link to {entry.target}\n".encode("utf-8", "surrogateescape"))
            return
        blob, program = self._store.path(entry.sha256), entry.mode & 0o100
        # The mode belongs to the inode that all names share, so an executable cannot be a link to a 0444 blob.
        if not program:
            with contextlib.suppress(OSError):  # another file system, or too many links
                os.link(blob, target)
                return
        with blob.open("rb") as source, target.open("xb") as copy:  # never through a link into the store
            shutil.copyfileobj(source, copy)
        target.chmod(0o555 if program else 0o444)


def _make(folder: Path, made: set[Path]) -> None:
    """The folder and those above it, up to one that is `made`; open to all, whatever the umask is."""
    if folder not in made:
        if made:
            _make(folder.parent, made)
        folder.mkdir()
        folder.chmod(0o755)
        made.add(folder)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o444)
