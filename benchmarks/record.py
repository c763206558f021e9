"""RESULTS.md: the last figures of every section of every benchmark, and on what machine.

    python benchmarks/record.py

Figures lie in results/, which is not in the repository. So a section that was not measured here stays as the page has it: a
benchmark of one part does not cost the page what is known of the others.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

if __name__ == "__main__":  # run by its path: `sandbox.py` beside this file would hide the package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.ratios import RECORD, RESULTS, recorded, table

WRITTEN = """\
Written by `python benchmarks/record.py` from the last run of each section: medians, and ratios of medians that were taken in
turn. A missed promise stays here until it is kept."""
NOTES = RECORD.with_name("NOTES.md")
TITLES = {
    "sandbox": "Sandbox",
    "coordination": "Coordination: what it adds to models and containers",
    "models": "Models: what the relay adds to the SDKs",
    "run": "Whole runs",
}


def write(folder: Path = RESULTS, page: Path = RECORD) -> None:
    """Render what was measured last; NOTES.md, written by hand, stands behind the tables."""
    before = parts(page.read_text(encoding="utf-8")) if page.exists() else {}
    text = ["# Results", WRITTEN]
    for name, title in TITLES.items():
        path = folder / f"{name}.json"
        now = {section.capitalize(): table(rows) for section, rows in recorded(path).items()} if path.exists() else {}
        known = {**before.get(title, {}), **now}
        if path.exists():
            facts = json.loads(path.read_text(encoding="utf-8"))["machine"]
            known[""] = "Machine: " + ", ".join(f"{key} {value}" for key, value in facts.items()) + "."
        if not known:
            continue
        text += [f"## {title}", known.pop("", "")]
        for section, body in known.items():
            text += [f"### {section}", body]
    if NOTES.exists():
        text.append(NOTES.read_text(encoding="utf-8").strip())
    page.write_text("\n\n".join(part for part in text if part) + "\n", encoding="utf-8")


def parts(page: str) -> dict[str, dict[str, str]]:
    """The page by title and section; what stands before the first section of a title is under an empty name."""
    found: dict[str, dict[str, str]] = {}
    for chapter in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, _, rest = chapter.partition("\n")
        head, *sections = re.split(r"^### ", rest, flags=re.MULTILINE)
        found[title] = {"": head.strip()}
        for section in sections:
            name, _, body = section.partition("\n")
            found[title][name] = body.strip()
    return found


if __name__ == "__main__":
    write()
