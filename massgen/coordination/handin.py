"""Handing in: from the call `new_answer` to an answer on disk that others may be shown, or to what is wrong with it.

The snapshot is taken with the agent's processes stopped, and the peers' folder is built out of sight; only then is it
known whether the answer is new, because the files count as much as the words. What is wrong goes back to the model as
the result of its call: a look that failed would have been an agent's whole work thrown away for a file too many.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import anyio.to_thread

from massgen.config.model import Novelty
from massgen.context.rules import Rules as ContextRules
from massgen.coordination.archive import Answer, Archive
from massgen.coordination.novelty import objection
from massgen.events.types import AnswerGiven, Event, Notice
from sandbox import Change, GuestError, Sandbox, Snapshot, SnapshotError, Store

SHOWN_NAMES = 10


async def take_snapshot(box: Sandbox, store: Store, context: ContextRules) -> Snapshot:
    """What an agent changed, less what the context rules leave out; `left_out` names what it may miss."""
    left_out: list[str] = []

    def keep(changes: Sequence[Change]) -> Collection[int]:
        judged = context.judge(changes)
        left_out.extend(judged.left_out)
        return judged.keep

    snapshot = await box.snapshot(store, keep=keep)
    return Snapshot(entries=snapshot.entries, left_out=(*snapshot.left_out, *left_out))


class HandingIn:
    """One agent's next answer in one look. `current()`: the answers that stand now, its own among them."""

    def __init__(
        self,
        *,
        answer: str,
        box: Sandbox,
        archive: Archive,
        context: ContextRules,
        novelty: Novelty,
        current: Callable[[], tuple[str, ...]],
    ) -> None:
        self.prepared: Answer | None = None
        """What was taken, to be published."""
        self.left_out: tuple[str, ...] = ()
        self._answer = answer
        self._box = box
        self._archive = archive
        self._context = context
        self._novelty = novelty
        self._current = current

    async def __call__(self, text: str) -> str:
        """What is wrong, or nothing. A later call replaces what an earlier one prepared. Raises: SandboxLost."""
        self.prepared = None
        try:
            snapshot = await take_snapshot(self._box, self._archive.store, self._context)
        except (SnapshotError, GuestError) as error:
            return f"your files cannot be handed in: {error}"
        prepared = await anyio.to_thread.run_sync(self._archive.prepare, self._answer, text, snapshot)
        # Compared with what stands after the waits: a peer may have handed in the same meanwhile.
        why = objection(prepared, map(self._archive.get, self._current()), self._novelty)
        if not why:
            self.prepared, self.left_out = prepared, snapshot.left_out
        return why

    def notice(self, agent: str) -> Event | None:
        """What its answer may miss, said once it is taken."""
        if not self.left_out:
            return None
        names = ", ".join(self.left_out[:SHOWN_NAMES])
        return Notice(agent=agent, text=f"left out of the answer, as withheld names never leave: {names}")


def given(agent: str, answer: Answer) -> AnswerGiven:
    """The fact."""
    return AnswerGiven(
        agent=agent,
        answer=answer.id,
        text=answer.text,
        snapshot=answer.snapshot.id,
        files=len(answer.patch.changes),
        added=answer.patch.added,
        removed=answer.patch.removed,
    )
