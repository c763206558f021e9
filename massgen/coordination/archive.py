"""The answers of a run with all that belongs to them: text, snapshot, patch, verdict, and their `/peers` folder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from massgen.agent.view import ShownAnswer
from massgen.coordination.originals import Originals
from massgen.coordination.peers import Peers
from massgen.coordination.state import owner
from massgen.events.types import AnswerGiven, Verified
from sandbox import Snapshot, Store
from sandbox.base import Base
from sandbox.patch import Patch, render
from sandbox.spec import WORKSPACE

SHOWN_PATCH_CHARS = 16_000
"""Of a patch, in a view; more of it is in `/peers`."""
PATCH_BYTES = 4 * 1024 * 1024
"""Of contents in the patch of an answer; the files of a larger one are all in `/peers`, and nobody reads on."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer as it was given."""

    id: str
    text: str
    snapshot: Snapshot
    patch: Patch


class Archive:
    """What was answered. Values only grow; files are written in `prepare`, which blocks."""

    def __init__(self, *, store: Store, base: Base, peers: Peers, originals: Originals) -> None:
        self.store = store
        self.base = base
        self._peers = peers
        self.peers = peers.folder
        """To be mounted at `/peers`."""
        self._originals = originals
        self._answers: dict[str, Answer] = {}
        self._verdicts: dict[str, Verified] = {}

    def prepare(self, answer: str, text: str, snapshot: Snapshot) -> Answer:
        """Store the snapshot and what it touches, make the patch, build the peers' folder out of sight. Blocks."""
        snapshot = self.base.changes(snapshot)
        made = Answer(id=answer, text=text, snapshot=snapshot, patch=self.keep(snapshot))
        self._peers.prepare(answer, text, snapshot, made.patch)
        return made

    def keep(self, snapshot: Snapshot) -> Patch:
        """Store a snapshot with all that it takes to diff and write it once this process is gone; returns its patch. Blocks."""
        self.store.put_snapshot(snapshot)
        patch = self.patch(snapshot)
        self._originals.add(self.base.originals_json(snapshot))
        return patch

    def restore(self, answers: Iterable[AnswerGiven], verdicts: Iterable[Verified]) -> None:
        """What a run had before it died: answers in their order, shown to peers again, and verdicts. Blocks.

        Raises SnapshotError when contents are no longer there.
        """
        for given in answers:
            snapshot = self.store.get_snapshot(given.snapshot)
            answer = Answer(id=given.answer, text=given.text, snapshot=snapshot, patch=self.patch(snapshot))
            self._peers.prepare(answer.id, answer.text, snapshot, answer.patch)
            self.publish(answer)
        for verdict in verdicts:
            self.add_verdict(verdict)

    def publish(self, answer: Answer) -> None:
        """The answer is given: agents may see it. One rename."""
        self._answers[answer.id] = answer
        self._peers.publish(answer.id)

    def add_verdict(self, verdict: Verified) -> None:
        """Keep a verdict (also on `base` and `final`) and lay it beside the answer."""
        self._verdicts[verdict.answer] = verdict
        self._peers.add_verdict(verdict)

    def patch(self, snapshot: Snapshot) -> Patch:
        """Against the project as it was, within bounds. `/workspace` is shown after the project, by its own name. Blocks."""
        return patch_of(snapshot, self.base, self.store, limit_bytes=PATCH_BYTES)

    def get(self, answer: str) -> Answer:
        """A given answer; KeyError when there is none."""
        return self._answers[answer]

    @property
    def newest(self) -> str | None:
        """The id of the answer that was given last."""
        return next(reversed(self._answers), None)

    def verdict(self, answer: str) -> Verified | None:
        """The verdict on an answer, `base` or `final`, if there is one yet."""
        return self._verdicts.get(answer)

    def shown(self, answers: tuple[str, ...], viewer: str) -> tuple[ShownAnswer, ...]:
        """The answers as this agent is shown them: registration order, its own last."""
        ordered = sorted(answers, key=lambda answer: owner(answer) == viewer)
        return tuple(self._shown(self._answers[answer], viewer) for answer in ordered)

    def judged(self, answers: tuple[str, ...]) -> bool:
        """Whether each of them has its verdict."""
        return all(answer in self._verdicts for answer in answers)

    def _shown(self, answer: Answer, viewer: str) -> ShownAnswer:
        label = owner(answer.id)
        return ShownAnswer(
            id=answer.id,
            label=label,
            own=label == viewer,
            text=answer.text,
            files=tuple(change.path for change in answer.patch.changes),
            verify=self._verdicts.get(answer.id),
            patch=answer.patch.text[:SHOWN_PATCH_CHARS],
        )


def patch_of(snapshot: Snapshot, base: Base, store: Store, *, binary: bool = False, limit_bytes: float = math.inf) -> Patch:
    """The patch of a snapshot against a base; `binary` and `limit_bytes` as in `render`. Blocks."""
    roots = [str(root) for root in base.roots] or [WORKSPACE]
    return render(snapshot, original=base.original, content=store.get, roots=roots, binary=binary, limit_bytes=limit_bytes)
