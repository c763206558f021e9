"""Whether an answer is new: it costs every other agent a look, so a copy or a variation must not clear the votes.

    lenient    only an exact duplicate is refused: the same words and the same files
    balanced   also one that is more than 0.70 alike, in its words and in its changes both
    strict     the same at 0.50; and the same changes told in other words

Alike is Jaccard's measure over the set of words (or of changed lines): what is common, over what there is. The measure
and the two figures are MassGen's own (`answer_novelty_requirement`); it compares words alone, which would let the same
patch with a new description pass, and refuse two patches that are described alike. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from massgen.config.model import Novelty
from massgen.coordination.archive import Answer

ALIKE: dict[Novelty, float] = {"lenient": 1.0, "balanced": 0.70, "strict": 0.50}

_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]|[^\W\u2e80-\u9fff\uac00-\ud7af]+")
"""A word; in scripts that put no spaces between words, a character."""


def objection(new: Answer, others: Iterable[Answer], novelty: Novelty) -> str:
    """Why the answer is not new, for its agent; empty when it is."""
    for other in others:
        same_files = new.snapshot.id == other.snapshot.id
        if same_files and _plain(new.text) == _plain(other.text):
            return f"this is exactly {other.id}, in its words and in its files"
        if novelty == "lenient":
            continue
        if novelty == "strict" and same_files and new.patch.changes:
            return f"this changes the files exactly as {other.id} does"
        words = jaccard(_words(new.text), _words(other.text))
        if words > ALIKE[novelty] and (same_files or _files_alike(new, other) > ALIKE[novelty]):
            return f"this is a variation of {other.id}: {words:.0%} of the words, and most of the changes, are the same"
    return ""


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """What is common, over what there is; two empty sets are alike."""
    return len(one & other) / len(one | other) if one or other else 1.0


def _files_alike(one: Answer, other: Answer) -> float:
    return jaccard(_lines(one), _lines(other))


def _lines(answer: Answer) -> frozenset[str]:
    """Changed lines; of files without lines, which these are."""
    lines = {line for line in answer.patch.text.splitlines() if line[:1] in "+-" and line[:4] not in ("+++ ", "--- ")}
    return frozenset(lines | {f"{change.kind} {change.path} {change.sha256}" for change in answer.patch.changes})


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def _plain(text: str) -> str:
    return " ".join(text.split())
