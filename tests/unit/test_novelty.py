"""What counts as a new answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massgen.config.model import Novelty
from massgen.coordination.archive import Answer
from massgen.coordination.novelty import jaccard, objection
from sandbox.patch import FileChange, Patch
from sandbox.snapshot import Entry, Snapshot

WORDS = "one two three four five six seven eight nine ten"


def answer(number: int, text: str, **files: str) -> Answer:
    """An answer that gives these files one line each."""
    changes = tuple(FileChange(path=path, kind="changed") for path in files)
    entries = tuple(Entry(root="/p", path=path, kind="file", sha256=f"{line:0>64}") for path, line in files.items())
    patch = "".join(f"--- a/{path}\n+++ b/{path}\n-old\n+{line}\n" for path, line in files.items())
    return Answer(id=f"agent{number}.1", text=text, snapshot=Snapshot(entries=entries), patch=Patch(text=patch, changes=changes))


@pytest.mark.parametrize(
    ("new", "lenient", "balanced", "strict"),
    [
        (answer(2, f" {WORDS}\n", a="1"), "exactly", "exactly", "exactly"),
        (answer(2, f"{WORDS} eleven", a="1"), "", "variation", "exactly as"),
        (answer(2, "wholly other words", a="1"), "", "", "exactly as"),
        (answer(2, f"{WORDS} eleven", a="2"), "", "", ""),
        (answer(2, WORDS), "", "", ""),
        (answer(2, "wholly other words", a="2"), "", "", ""),
    ],
)
def test_a_variation_is_no_news_and_another_patch_is(new: Answer, lenient: str, balanced: str, strict: str) -> None:
    """Words and files count together: neither a copied description nor a reworded patch decides by itself."""
    old = answer(1, WORDS, a="1")
    modes: tuple[Novelty, ...] = ("lenient", "balanced", "strict")
    for novelty, expected in zip(modes, (lenient, balanced, strict), strict=True):
        why = objection(new, [old], novelty)
        assert (expected in why) if expected else why == "", novelty


def test_the_thresholds_are_the_borrowed_ones() -> None:
    """Without files, 0.70 of the words for balanced and 0.50 for strict, both exclusive."""
    old = answer(1, WORDS)
    seven, five = answer(2, " ".join(WORDS.split()[:7])), answer(2, " ".join(WORDS.split()[:5]))
    assert objection(seven, [old], "balanced") == ""
    assert "70%" in objection(seven, [old], "strict")
    assert objection(five, [old], "strict") == ""
    assert objection(answer(2, " ".join(WORDS.split()[:8])), [old], "balanced")


def test_files_without_lines_that_differ_pass_for_the_same() -> None:
    """Binary ones, and those beyond what is compared: by their content."""
    one, same, other = (
        Answer(
            id=f"agent{number}.1",
            text=f"{WORDS} {number}",
            snapshot=Snapshot(entries=(Entry(root="/p", path="a", kind="file", mode=number),)),
            patch=Patch(text="", changes=(FileChange(path="a", kind="changed", binary=True, sha256=sha),)),
        )
        for number, sha in ((1, "s"), (2, "s"), (3, "t"))
    )
    assert objection(same, [one], "balanced")
    assert not objection(other, [one], "balanced")


def test_scripts_without_spaces_are_compared_by_character() -> None:
    """A sentence of Chinese is not one word."""
    old = answer(1, "修复了导出函数的日期过滤")
    assert objection(answer(2, "修复了导出函数的日期过滤吧"), [old], "balanced")
    assert not objection(answer(2, "重写整个模块并添加缓存"), [old], "balanced")


@given(st.frozensets(st.text(max_size=2)), st.frozensets(st.text(max_size=2)))
def test_likeness_is_a_share_and_does_not_depend_on_order(one: frozenset[str], other: frozenset[str]) -> None:
    """Between 0 and 1, the same both ways, 1 for the same."""
    assert 0 <= jaccard(one, other) == jaccard(other, one) <= 1
    assert jaccard(one, one) == 1
