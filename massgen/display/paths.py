"""What a run says of how a context path is shown: from the rows of its first event, or of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from massgen.display.text import line

_GIT = {"clean": "with its history", "fresh": "its history replaced by one commit"}


def kind_text(row: Mapping[str, Any]) -> str:
    """`overlay, with its history`; empty where there is nothing to say."""
    git = str(row.get("git", ""))
    shown = _GIT.get(git) or ("without its history" if row.get("git_why") else "")
    return ", ".join(word for word in (str(row.get("draft", "")), shown) if word)


def copy_reason(row: Mapping[str, Any]) -> str:
    """Why it is a copy, as a line for people; empty when it is none, or was asked to be one."""
    why = str(row.get("draft_why", ""))
    return f"copy: {line(why, 160)}" if why and row.get("draft") == "copy" else ""


def git_reason(row: Mapping[str, Any]) -> str:
    """Why an overlay does not show the history, as a line for people; that a copy has none is said by its kind."""
    why = str(row.get("git_why", ""))
    return f"git: {line(why, 160)}" if why and row.get("draft") != "copy" else ""
