"""Finding things: list, glob, grep. What version control and caches keep for themselves is left out."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator

from massgen.body.commands import Commands
from massgen.body.result import Refused, Result

MAX_ENTRIES = 500
MAX_LINE = 300
MAX_GREP_FILE = 16 * 1024 * 1024

SKIP = frozenset(
    {".git", ".hg", ".svn", "__pycache__", ".venv", "node_modules", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox"}
)
"""Folders that are not looked into unless they are asked for by name."""


def list_folder(path: str, *, depth: int) -> Result:
    """What a folder holds, folders with a slash, files with their size."""
    if not os.path.isdir(path):
        msg = (
            f"there is no folder {path}. Look with list at its parent."
            if not os.path.exists(path)
            else f"{path} is a file. Use read_file."
        )
        raise Refused(msg)
    lines: list[str] = []
    more = 0
    for entry, level in _entries(path, depth):
        if len(lines) >= MAX_ENTRIES:
            more += 1
            continue
        lines.append("  " * level + _described(entry))
    if more:
        lines.append(f"[{more} more entries not shown: list a folder below, or glob]")
    return Result("\n".join(lines) or "[empty folder]")


def _entries(path: str, depth: int, level: int = 0) -> Iterator[tuple[os.DirEntry[str], int]]:
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        yield entry, level
        if level + 1 < depth and entry.name not in SKIP and entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path, depth, level + 1)


def _described(entry: os.DirEntry[str]) -> str:
    try:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return f"{entry.name} -> {os.readlink(entry.path)}"
    except OSError:
        return f"{entry.name} [unreadable]"
    if stat.S_ISDIR(status.st_mode):
        return f"{entry.name}/"
    return f"{entry.name} ({status.st_size} bytes)" if stat.S_ISREG(status.st_mode) else f"{entry.name} [special]"


def files_below(root: str) -> Iterator[str]:
    """Every regular file below, in order, links not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIP)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def glob(pattern: str, path: str) -> Result:
    """Files whose path below `path` matches; `**` crosses folders, a pattern without a slash matches at any depth."""
    matches = _matcher(pattern).fullmatch
    found: list[str] = []
    more = 0
    for file in files_below(path):
        if matches(os.path.relpath(file, path)):
            if len(found) < MAX_ENTRIES:
                found.append(file)
            else:
                more += 1
    if more:
        found.append(f"[{more} more: narrow the pattern]")
    return Result("\n".join(found) or f"no file below {path} matches {pattern}")


def _matcher(pattern: str) -> re.Pattern[str]:
    if "/" not in pattern:
        pattern = "**/" + pattern
    out = ""
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif pattern[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif pattern[at] == "?":
            out, at = out + "[^/]", at + 1
        elif pattern[at] == "[" and "]" in pattern[at + 2 :]:
            end = pattern.index("]", at + 2)
            inner = pattern[at + 1 : end].replace("\\", r"\\")
            out, at = out + "[" + ("^" + inner[1:] if inner[0] in "!^" else inner) + "]", end + 1
        else:
            out, at = out + re.escape(pattern[at]), at + 1
    try:
        return re.compile(out)
    except re.error as error:
        msg = f"{pattern!r} is not a glob pattern: {error}."
        raise Refused(msg) from None


def grep(commands: Commands, pattern: str, path: str, *, only: str, ignore_case: bool) -> Result:
    """Lines that match a regular expression, as path:line:text; ripgrep when the image has it."""
    if not os.path.exists(path):
        msg = f"there is no {path}. Look with list or glob."
        raise Refused(msg)
    program = shutil.which("rg")
    if program:
        argv = [
            program,
            "--line-number",
            "--no-heading",
            "--with-filename",
            "--color=never",
            f"--max-columns={MAX_LINE}",
            "--sort=path",
        ]
        argv += ["--hidden", "--glob=!.git/"] + (["--ignore-case"] if ignore_case else []) + ([f"--glob={only}"] if only else [])
        result = commands.run_program([*argv, "--regexp", pattern, "--", path], cwd=path if os.path.isdir(path) else "/")
        if result.exit_code == 1:
            return Result("no matches")
        if result.exit_code == 2 and "regex parse error" in result.text:
            raise Refused(result.text)
        return Result(result.text, ok=result.ok, truncated_bytes=result.truncated_bytes)
    return _grep_here(pattern, path, only, ignore_case=ignore_case)


def _grep_here(pattern: str, path: str, only: str, *, ignore_case: bool) -> Result:
    try:
        regex = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        msg = f"{pattern!r} is not a regular expression: {error}. Escape what is meant literally."
        raise Refused(msg) from None
    wanted = _matcher(only) if only else None
    found: list[str] = []
    for file in files_below(path) if os.path.isdir(path) else [path]:
        if wanted and not wanted.fullmatch(os.path.relpath(file, path)):
            continue
        for number, line in _text_lines(file):
            if regex.search(line):
                found.append(f"{file}:{number}:{line[:MAX_LINE]}")
                if len(found) >= MAX_ENTRIES:
                    return Result("\n".join([*found, "[more matches not shown: narrow the pattern or the path]"]))
    return Result("\n".join(found) or "no matches")


def _text_lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        if os.path.getsize(path) > MAX_GREP_FILE:
            return
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return
    if b"\0" not in data[:8192]:
        yield from enumerate(data.decode("utf-8", "replace").split("\n"), 1)
