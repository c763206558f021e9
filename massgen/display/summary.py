"""The end of a run in a few lines: who won, how, what it did to the files, what it took, what to type next."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.text import Text

from massgen.display.costs import table
from massgen.display.rows import put
from massgen.display.story import Story
from massgen.display.text import count, duration_text, line

MAX_FILES = 12


class Standing(Protocol):
    """What became of a result after its run."""

    @property
    def written(self) -> int:
        """Files of it that are in the project now."""

    @property
    def left(self) -> int:
        """Those that are not."""

    @property
    def undone(self) -> bool:
        """The last thing that happened to it was an undo."""


def lines(
    story: Story, *, named: str = "", standing: Standing | None = None, resumable: bool = False
) -> tuple[tuple[str, str], ...]:
    """Pairs of a word and what there is to say about it; empty for a run that never started.

    `named`: what has to follow a command so that it means this run. `standing`: None when the run has just ended.
    """
    if story.started is None:
        return ()
    pairs = [
        ("winner", _winner(story)),
        *(("out", f"{name}: {line(why, 400)}") for name, why in story.excluded.items()),
        ("votes", _votes(story)),
        ("verify", _verify(story)),
        ("files", _files(story, standing)),
        ("tokens", _tokens(story)),
        ("cost", _cost(story)),
        *_table(story),
        ("time", duration_text(story.finished.seconds) if story.finished else ""),
        ("result", _result(story)),
        ("next", _next(story, named, standing, resumable=resumable)),
    ]
    return tuple((word, text) for word, text in pairs if text)


def show(
    story: Story,
    console: Console,
    *,
    log: str = "",
    named: str = "",
    standing: Standing | None = None,
    resumable: bool = False,
) -> None:
    """Print the summary; `log` is where the readable folder is, the rest as in `lines`. Nothing when the run never started."""
    found = lines(story, named=named, standing=standing, resumable=resumable) + ((("log", line(log)),) if log else ())
    if story.started is None:
        return
    good = story.finished is not None and story.finished.exit_code == 0
    console.print(Text(f"run {story.run_id}", style="bold green" if good else "bold red"), highlight=False)
    for word, text in found:
        put(console, Text(f"  {word:<8}", "dim"), Text(text, "bold" if word in ("winner", "next") else ""))


def _winner(story: Story) -> str:
    if story.selected is None:
        return "nobody"
    models = {str(a.get("id")): str(a.get("model", "")) for a in story.started.agents} if story.started else {}
    name = story.name(story.selected.agent)
    model = models.get(name, "")
    return f"{name} ({line(model, 60)})" if model and model != name else name


def _votes(story: Story) -> str:
    if story.selected is None:
        return ""
    others = [f"{story.name(a)} {n}" for a, n in story.selected.votes.items() if n and a != story.selected.agent]
    return "; ".join([line(story.selected.why, 100), *others])


def _verify(story: Story) -> str:
    final = story.verified.get("final") or (story.verified.get(story.selected.answer) if story.selected else None)
    if final is None:
        return "not asked for" if story.started and not story.started.verify else ""
    tests = f", {final.figure(final.passed, 'passed')}" if final.ok and final.passed is not None else ""
    base = story.verified.get("base")
    before = f"; before: {line(base.summary, 40)}" if base else ""
    changed = "; the tests themselves were changed" if final.tests_changed else ""
    return f"{line(final.summary, 60)}{tests}{before}{changed}"


def _files(story: Story, standing: Standing | None) -> str:
    shown = story.presented or (story.answers[-1] if story.answers else None)
    if shown is None or not shown.files:
        return "none changed"
    return f"{count(shown.files, 'file')} +{shown.added} -{shown.removed}, {_where(story, standing)}"


def _where(story: Story, standing: Standing | None) -> str:
    if standing is None:
        return "written" if story.applied else "not written yet"
    if standing.written:
        return f"{standing.written} of them written" if standing.left else "written"
    return "taken back" if standing.undone else "not written yet"


def _some(files: tuple[str, ...]) -> str:
    more = f" and {len(files) - MAX_FILES} more" if len(files) > MAX_FILES else ""
    return ", ".join(line(f, 120) for f in files[:MAX_FILES]) + more


def _tokens(story: Story) -> str:
    total = story.all_spent.usage
    if not total.input_tokens + total.output_tokens:
        return ""
    cached = f" ({total.cached_tokens:,} cached)" if total.cached_tokens else ""
    return f"{total.input_tokens:,} in{cached}, {total.output_tokens:,} out, {count(story.all_spent.calls, 'call')}"


def _cost(story: Story) -> str:
    spent = story.all_spent
    if not spent.cost_usd:
        return ""
    unknown = f", without {count(spent.unpriced, 'call')} of unknown price" if spent.unpriced else ""
    return f"${spent.cost_usd:.4f}{unknown}"


def _table(story: Story) -> tuple[tuple[str, str], ...]:
    """Where the tokens went, when there were any."""
    return tuple(("", row) for row in table(story)) if _tokens(story) else ()


def _result(story: Story) -> str:
    if story.finished is None:
        return "the run did not end properly"
    said = story.finished.outcome + (f": {line(story.finished.message, 300)}" if story.finished.message else "")
    paths = story.conflicted.paths if story.conflicted else ()
    if paths and paths[0] not in said:
        said += f" ({_some(paths)})"
    return said


def _next(story: Story, named: str, standing: Standing | None, *, resumable: bool) -> str:
    if resumable:
        return f"massgen resume {story.run_id}"
    pending = story.presented or (story.answers[-1] if story.answers else None)
    if story.finished is None or pending is None or not pending.files:
        return ""
    written = bool(standing.written if standing else story.applied)
    left = bool(standing.left if standing else not story.applied)
    may = left and story.started is not None and story.started.write_mode != "never"
    words = ["diff", *(["apply"] if may else []), *(["undo"] if written else [])]
    if standing and standing.undone and not written:
        words.append("undo --redo")
    return " · ".join(f"massgen {word}{named}" for word in words) if len(words) > 1 else ""
