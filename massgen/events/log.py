"""The event log: one append-only file per run, written before anybody is told.

One `write` per event, so that a run killed at any byte leaves a readable prefix. The facts that cost money or
touch the project are on the disk before the run goes on; the others may be lost with the machine, not with
the process. Displays, transcripts and `--json` are readers: they see an event only after the file has it,
in order, and none of them can stop a run: one that raises is dropped, and that is said.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from massgen.events.codec import Envelope, LogError, encode
from massgen.events.replay import GOES_ON, read
from massgen.events.types import AnswerGiven, Applied, Event, LeaseGranted, Notice, RunFinished

FILE = "events.jsonl"

Reader = Callable[[Envelope], None]
"""Called with every event, in order, on the emitting thread; must be quick."""

_DURABLE = (AnswerGiven, LeaseGranted, Applied, RunFinished)
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


def utc_now() -> datetime:
    """The clock of the log."""
    return datetime.now(UTC)


class EventLog:
    """The one place where things that happened are said. Not shared between threads.

    Raises: LogError when `folder` already holds a log, or on an event after the terminal one.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        *,
        readers: Sequence[Reader] = (),
        clock: Callable[[], datetime] = utc_now,
        past: Sequence[Envelope] | None = None,
    ) -> None:
        """`past`: what `reopen` found; None makes a new log."""
        self.path = folder / FILE
        self.run_id = run_id
        self._readers = list(readers)
        self._clock = clock
        self._seq = len(past or ())
        self._ended = False
        try:
            self._fd = os.open(self.path, _FLAGS if past else _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise LogError(f"{self.path} exists: a run never writes into the log of another") from error
        self._size = os.fstat(self._fd).st_size
        sync_folder(folder)

    @property
    def ended(self) -> bool:
        """True after RunFinished."""
        return self._ended

    def emit(self, event: Event) -> Envelope:
        """Write, then tell the readers. Blocks for the disk on the durable events (a few ms). What is not kept is only told."""
        if self._ended:
            raise LogError(f"{type(event).__name__} after RunFinished: a run ends once")
        now = self._clock().isoformat(timespec="microseconds")
        if not event.kept:
            passing = Envelope(seq=self._seq, ts=now, run_id=self.run_id, event=event)
            self._tell(passing)
            return passing
        envelope = Envelope(seq=self._seq + 1, ts=now, run_id=self.run_id, event=event)
        self._write(encode(envelope))
        if isinstance(event, _DURABLE):
            os.fsync(self._fd)
        self._seq = envelope.seq
        self._ended = isinstance(event, RunFinished)
        self._tell(envelope)
        return envelope

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            # A full disk may take half a line; without this cut the next event would be glued to it.
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)

    def _tell(self, envelope: Envelope) -> None:
        broken: list[str] = []
        for reader in tuple(self._readers):
            try:
                reader(envelope)
            except Exception as error:  # noqa: BLE001  (a broken pipe of a display must not end a paid run)
                self._readers.remove(reader)
                broken.append(f"{type(error).__name__}: {error}")
        for why in broken:
            if not self._ended:
                self.emit(Notice(text=f"a display stopped reading and was dropped ({why})", level="warning"))

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def reopen(
    folder: Path, run_id: str, *, readers: Sequence[Reader] = (), clock: Callable[[], datetime] = utc_now
) -> tuple[EventLog, tuple[Envelope, ...]]:
    """The log of a run that did not come to its end, to be gone on with, and what is in it. Blocks.

    A torn last line is cut off, whatever of it is there: nobody was told of it. No reader is told of the old events.
    Raises LogError: damage, or a run that has ended.
    """
    path = folder / FILE
    past = tuple(read(path)) if path.exists() else ()
    end = past[-1].event if past else None
    if isinstance(end, RunFinished) and end.outcome not in GOES_ON:
        raise LogError(f"{path}: the run has ended ({end.outcome})")
    if not past:
        path.unlink(missing_ok=True)
        return EventLog(folder, run_id, readers=readers, clock=clock), ()
    with path.open("rb+") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(whole)
        os.fsync(file.fileno())
    return EventLog(folder, run_id, readers=readers, clock=clock, past=past), past


def sync_folder(folder: Path) -> None:
    """The names in it are still there after a power cut. Blocks. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
