"""What a run took, as a table: a row for each agent and phase, and their sum. Made from the story, in the providers' own counts.

Calls that broke in the middle are not in it: nobody told what they took (`budget` counts them at their worst case).
"""

from __future__ import annotations

from massgen.display.story import Spent, Story
from massgen.display.text import line, padded, widest

HEAD = ("agent", "phase", "calls", "input", "cached", "output", "reasoning", "cost")
LEFT = 2
"""So many columns are words; the others are figures and stand on the right."""


def table(story: Story) -> tuple[str, ...]:
    """Lines of equal columns, heading first; empty when no model was called."""
    if not story.spent:
        return ()
    rows = [HEAD, *(_row(line(agent, 24), phase, spent) for (agent, phase), spent in story.spent.items())]
    if len(story.spent) > 1:
        rows.append(_row("all", "", story.all_spent))
    widths = [widest(row[column] for row in rows) for column in range(len(HEAD))]
    return tuple(
        "  ".join(
            padded(cell, width) if column < LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def cost_text(spent: Spent) -> str:
    """`$0.0123`; `?` for calls whose price nobody knows."""
    if spent.unpriced == spent.calls:
        return "?"
    known = f"${spent.cost_usd:.4f}" if spent.cost_usd else "$0"
    return f"{known} + ?" if spent.unpriced else known


def plain(story: Story) -> list[dict[str, object]]:
    """The same as values, for `result.json`. `cost_usd` is of the calls whose price is known."""
    return [
        {
            "agent": agent,
            "phase": phase,
            "calls": spent.calls,
            "input_tokens": spent.usage.input_tokens,
            "cached_tokens": spent.usage.cached_tokens,
            "output_tokens": spent.usage.output_tokens,
            "reasoning_tokens": spent.usage.reasoning_tokens,
            "cost_usd": round(spent.cost_usd, 6),
            "unpriced_calls": spent.unpriced,
        }
        for (agent, phase), spent in story.spent.items()
    ]


def _row(agent: str, phase: str, spent: Spent) -> tuple[str, ...]:
    usage = spent.usage
    figures = (spent.calls, usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens)
    return (agent, phase, *(f"{figure:,}" for figure in figures), cost_text(spent))
