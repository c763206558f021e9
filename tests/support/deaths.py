"""What a run leaves on the disk if it is killed after an event: kept at each event, and put back one by one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from massgen.events.codec import Envelope


@dataclass
class Deaths:
    """A reader of a run's log. Nothing that lives only in the process is kept, so putting one back is what SIGKILL leaves.

    Folders that are rebuilt, and files that somebody is just writing (they begin with a dot), are not copied.
    """

    kept: Path
    state: Path
    project: Path
    lines: list[str] = field(default_factory=list)
    """The event of each, by name."""

    def __call__(self, envelope: Envelope) -> None:
        if not envelope.event.kept:
            return
        place = self.kept / str(len(self.lines))
        shutil.copytree(self.state, place / "state", ignore=shutil.ignore_patterns(".*", "peers", "lock"))
        shutil.copytree(self.project, place / "project", symlinks=True)
        self.lines.append(type(envelope.event).__name__)

    def put_back(self, number: int, run: str, *, torn: bool = True) -> Path:
        """State and project as after event `number` (from 0); `torn`: the next one was half written. Returns the run's folder."""
        for path, name in ((self.state, "state"), (self.project, "project")):
            shutil.rmtree(path)
            shutil.copytree(self.kept / str(number) / name, path, symlinks=True)
        folder = self.state / "runs" / run
        if torn:
            with (folder / "events.jsonl").open("ab") as log:
                log.write(b'{"v": 1, "seq": ')
        return folder
