"""Reading a log back: every event, or only the facts that coordination is a function of.

A torn last line (a run killed in mid-write) is dropped. Anything else that is wrong is an error with its line:
a log with a hole would replay to a state that never was.

A log is unfinished when it has no terminal event, or one that blames the machine (`GOES_ON`): such a run can be resumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from massgen.events.codec import Envelope, LogError, decode
from massgen.events.types import Fact, RunFinished, RunResumed

GOES_ON = frozenset({"crashed", "sandbox"})
"""Outcomes after which a run may be resumed: a full disk, a dead engine, an error of ours."""

_FACTS = get_args(Fact)


def read(path: Path) -> Iterator[Envelope]:
    """The envelopes of a log file, in order. Raises LogError, naming the line."""
    with path.open("rb") as file:
        last: Envelope | None = None
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                envelope = decode(line)
                _check_order(last, envelope)
            except LogError as error:
                raise LogError(f"{path}, line {number}: {error}") from error
            yield envelope
            last = envelope


def facts(log: Path | Iterable[Envelope]) -> list[Fact]:
    """What coordination was told, in order."""
    envelopes = read(log) if isinstance(log, Path) else log
    return [envelope.event for envelope in envelopes if isinstance(envelope.event, _FACTS)]


def _check_order(last: Envelope | None, envelope: Envelope) -> None:
    if last is not None and isinstance(last.event, RunFinished) and not _takes_back(envelope, last.event):
        raise LogError("an event after RunFinished")
    wanted = 1 if last is None else last.seq + 1
    if envelope.seq != wanted:
        raise LogError(f"event {envelope.seq} where {wanted} belongs")
    if last is not None and envelope.run_id != last.run_id:
        raise LogError(f"an event of another run ({envelope.run_id})")


def _takes_back(envelope: Envelope, end: RunFinished) -> bool:
    return isinstance(envelope.event, RunResumed) and end.outcome in GOES_ON
