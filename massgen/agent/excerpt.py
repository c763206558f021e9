"""What a small model is shown of a file, and what it is asked: within 2,800 tokens at three characters each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from massgen.agent import prompts
from massgen.agent.testrun import runner, shortened
from massgen.messages import Message

WHOLE_FILE_LINES = 120
MARGIN_LINES = 40
CODE_CHARS = 6000
"""8,400 characters of prompt, less the test output (1,200) and our own words."""

DOC_LINES = 6
"""A longer docstring is not shown (and stays as it is): repeating it would cost the model its whole answer."""

_FENCE = re.compile(r"^[ \t]*(`{3,})[^\n`]*\n(.*?)(?:^[ \t]*\1`*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A function that may hold the bug, as the body located it."""

    path: str
    name: str
    start: int
    end: int
    doc: tuple[int, int] | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """The part of a file that fits."""

    code: str
    whole: bool
    doc_hidden: bool
    answer_tokens: int
    """What an answer with the whole function may need."""


def read_suspects(text: str) -> tuple[Suspect, ...]:
    """What `locate` printed; anything that is not as expected is left out, as it comes from a container."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    found: list[Suspect] = []
    for item in items[:10] if isinstance(items, list) else []:
        match item:
            case {"path": str(path), "name": str(name), "start": int(start), "end": int(end), "doc": doc, "why": str(why)}:
                lines = (
                    (doc[0], doc[1]) if isinstance(doc, list) and len(doc) == 2 and all(isinstance(n, int) for n in doc) else None
                )
                if 0 < start <= end and len(path) < 1000 and len(name) < 300:
                    found.append(Suspect(path=path, name=name, start=start, end=end, doc=lines, why=why[:200]))
            case _:
                continue
    return tuple(found)


def excerpt(text: str, suspect: Suspect) -> Excerpt | None:
    """The whole file when it is short, else the function with as many lines around it as fit; None: it is too long."""
    lines = re.split(r"\r\n|\r|\n", text)
    hidden: set[int] = set()
    if suspect.doc and suspect.doc[1] - suspect.doc[0] >= DOC_LINES and suspect.doc[1] < suspect.end:
        hidden = set(range(suspect.doc[0], suspect.doc[1] + 1))
    shown = "\n".join(lines[n - 1] for n in range(suspect.start, suspect.end + 1) if n not in hidden)
    short = len(lines) <= WHOLE_FILE_LINES + 1
    for margin in (*([len(lines)] if short else []), MARGIN_LINES, 20, 10, 4, 0):
        first, last = max(1, suspect.start - margin), min(len(lines), suspect.end + margin)
        code = "\n".join(lines[number - 1] for number in range(first, last + 1) if number not in hidden)
        if len(code) <= CODE_CHARS:
            whole = margin == len(lines)
            return Excerpt(code=code.strip("\n"), whole=whole, doc_hidden=bool(hidden), answer_tokens=_tokens(shown))
    return None


def question(suspect: Suspect, part: Excerpt, output: str, command: str) -> tuple[Message, ...]:
    """The measured prompt, the same for every agent and attempt, so that a server processes it once."""
    what = suspect.path if part.whole else f"`{suspect.name}` in {suspect.path}"
    user = prompts.fill(
        "repair_user", runner=runner(command), what=what, path=suspect.path, code=part.code, output=shortened(output)
    )
    return (Message(role="system", text=prompts.fill("repair_system")), Message(role="user", text=user))


def longest_block(text: str) -> str:
    """The code of a reply: its longest fenced block, or all of it when it is bare code; empty when there is none."""
    blocks = [match.group(2) for match in _FENCE.finditer(text)]
    if blocks:
        return max(blocks, key=len)
    return text if re.search(r"^\s*(?:async )?def \w+", text, re.MULTILINE) else ""


def _tokens(function: str) -> int:
    return min(1000, max(300, len(function) // 3 + 120))
