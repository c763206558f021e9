"""The tools as a model is told of them. What they do is `massgen/body`; the two coordination calls never get there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from massgen.messages import ToolSpec

NEW_ANSWER = "new_answer"
VOTE = "vote"


def _tool(name: str, description: str, required: tuple[str, ...], /, **properties: Mapping[str, Any]) -> ToolSpec:
    parameters = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return ToolSpec(name=name, description=description, parameters=parameters)


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _number(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def _flag(description: str) -> dict[str, Any]:
    return {"type": "boolean", "description": description}


_PATH = _text("Absolute, or relative to where you start.")

_EDIT = {
    "old": _text("Exact text in the file, with enough context to be unique."),
    "new": _text("What takes its place."),
    "replace_all": _flag("Replace every occurrence."),
}

BODY_TOOLS: tuple[ToolSpec, ...] = (
    _tool(
        "shell",
        "Run a command with bash in your container. No network, stdin is empty, output keeps head and tail. Whatever it leaves "
        "running is ended, unless background is true: then use job.",
        ("command",),
        command=_text("The command line."),
        timeout_s=_number("Seconds until it is stopped (default: the most allowed, usually 120)."),
        cwd=_PATH,
        background=_flag("Start it and return at once."),
    ),
    _tool(
        "job",
        "Look after background jobs: their output since the last read, or end one.",
        ("action",),
        action={"type": "string", "enum": ["list", "read", "kill"]},
        id=_text("The job, as shell named it."),
        wait_s=_number("read: wait up to so many seconds for it to end (at most 60)."),
    ),
    _tool(
        "read_file",
        "Read a text file as it is, or some of its lines; a picture (PNG, JPEG, GIF, WebP) is shown to you.",
        ("path",),
        path=_PATH,
        start=_number("First line, from 1."),
        end=_number("Last line, included."),
    ),
    _tool(
        "write_file",
        "Make a file hold exactly this text. Folders are made.",
        ("path", "content"),
        path=_PATH,
        content=_text("All of it."),
    ),
    _tool(
        "edit_file",
        "Replace exact text in a file: one old and new, or several edits, done in order, all or none.",
        ("path",),
        path=_PATH,
        **_EDIT,
        edits={"type": "array", "items": {"type": "object", "properties": _EDIT, "required": ["old", "new"]}},
    ),
    _tool(
        "replace_function",
        "Replace a whole Python function or method by name. Indentation is adapted; old decorators stay unless you send some; "
        "nothing is written unless the file still compiles.",
        ("path", "code"),
        path=_PATH,
        code=_text("The complete new function, from its def line (or decorators) to its end."),
        name=_text("Qualified name (Class.method), when the name alone is not unique in the file."),
    ),
    _tool("list", "What a folder holds.", (), path=_PATH, depth=_number("How deep (default 1).")),
    _tool(
        "glob",
        "Files whose path matches a pattern; ** crosses folders.",
        ("pattern",),
        pattern=_text("For example **/*.py"),
        path=_PATH,
    ),
    _tool(
        "grep",
        "Lines that match a regular expression, as path:line:text.",
        ("pattern",),
        pattern=_text("Regular expression."),
        path=_PATH,
        glob=_text("Only files that match this, for example *.py"),
        ignore_case=_flag("Upper and lower case alike."),
    ),
)

ANSWER_TOOL = _tool(
    NEW_ANSWER,
    "Hand in your answer: your text and, with it, all files as you have changed them. Ends your turn and clears all votes.",
    ("content",),
    content=_text(
        "The complete answer to the task, for somebody who sees nothing else: what you did, why, and how it was checked."
    ),
)


def vote_tool(labels: tuple[str, ...]) -> ToolSpec:
    """The vote, with the labels that can be named."""
    return _tool(
        VOTE,
        "Vote for the best current answer (yours counts too), when you would not improve on it. Ends your turn. "
        "Only agents that have answered can be voted for.",
        ("agent_id", "reason"),
        agent_id={"type": "string", "enum": list(labels)},
        reason=_text("Why it is the best, in a sentence or two."),
    )


def summary(name: str, args: Mapping[str, Any]) -> str:
    """One line for people."""
    main = next((args[key] for key in ("command", "path", "pattern", "id", "action") if isinstance(args.get(key), str)), "")
    line = " ".join(str(main).split())
    return f"{name} {line}"[:160].rstrip()
