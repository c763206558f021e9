"""RESULTS.md: the last figures of every section, and on what machine."""

from __future__ import annotations

import json

from benchmarks.ratios import RECORD, RESULTS, recorded, table

WRITTEN = """\
Written by `python benchmarks/sandbox.py --record` from the last run of each section: medians, and ratios of medians that were
taken in turn. A missed promise stays here until it is kept."""
NOTES = RECORD.with_name("NOTES.md")


def write() -> None:
    """Render what was measured last; NOTES.md, written by hand, stands behind the tables."""
    facts = json.loads((RESULTS / "sandbox.json").read_text(encoding="utf-8"))["machine"]
    parts = [
        "# Results",
        WRITTEN,
        "Machine: " + ", ".join(f"{key} {value}" for key, value in facts.items()) + ".",
    ]
    for name, rows in recorded("sandbox").items():
        parts += [f"## {name.capitalize()}", table(rows)]
    if NOTES.exists():
        parts.append(NOTES.read_text(encoding="utf-8").strip())
    RECORD.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
