"""What the project held where answers touched it, on disk before the answer is given: `originals.jsonl` in the run's folder.

The base of a run lives in its process; a run that is killed after an answer would leave a snapshot that nobody can diff, merge or
check for drift, as the project may have moved on. `run.json` has the same for the result, once there is one; rewriting that at
each answer, from several threads, was the alternative. Lines are only added; a torn last one belongs to an answer never given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = "originals.jsonl"


class Originals:
    """The file of one run."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep rows of `Base.originals_json`, through a power cut. One write, so threads do not mix. Blocks."""
        text = "".join(json.dumps(row) + "\n" for row in rows).encode("ascii")
        if not text:
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(text)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def load(self) -> list[dict[str, Any]]:
        """All rows, first to last; what is torn is left out. Blocks."""
        rows = []
        for line in self._path.read_bytes().splitlines() if self._path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows
