"""Which name does what. `massgen/agent/tools.py` describes the same names to models; a test holds the two together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from massgen.body import files, search
from massgen.body.commands import Commands
from massgen.body.locate import locate
from massgen.body.pyedit import replace_function
from massgen.body.result import KEEP_BYTES, Refused, Result, flag_arg, int_arg, text_arg

MAX_WAIT_S = 60


class Workbench:
    """What an action works with."""

    def __init__(self, *, commands: Commands, cwd: str) -> None:
        self.commands = commands
        self.cwd = cwd

    def path(self, args: dict[str, Any], default: str | None = None, name: str = "path") -> str:
        """A path argument, made absolute from where we started. Raises: Refused."""
        text = text_arg(args, name, default)
        if not text or "\0" in text:
            msg = f"argument {name!r} is empty or contains NUL. Give a path."
            raise Refused(msg)
        return os.path.normpath(os.path.join(self.cwd, os.path.expanduser(text)))


def do(bench: Workbench, name: str, args: dict[str, Any]) -> Result:
    """Do one action. Raises: Refused, OSError."""
    if name not in TABLE:
        msg = f"there is no tool {name!r}. There are: {', '.join(sorted(SHOWN))}."
        raise Refused(msg)
    return TABLE[name](bench, args)


def _shell(bench: Workbench, args: dict[str, Any]) -> Result:
    command = text_arg(args, "command")
    cwd = bench.path(args, ".", "cwd")
    if flag_arg(args, "background"):
        return bench.commands.start_job(command, cwd=cwd)
    timeout = int_arg(args, "timeout_s", 0, most=86_400)
    env = args.get("env")
    extra = {str(key): str(value) for key, value in env.items()} if isinstance(env, dict) else None
    return bench.commands.run(command, cwd=cwd, timeout_s=timeout or None, env=extra)


def _job(bench: Workbench, args: dict[str, Any]) -> Result:
    action = text_arg(args, "action", "list")
    if action == "list":
        return bench.commands.list_jobs()
    if action == "read":
        return bench.commands.read_job(text_arg(args, "id"), wait_s=int_arg(args, "wait_s", 0, most=MAX_WAIT_S))
    if action == "kill":
        return bench.commands.kill_job(text_arg(args, "id"))
    msg = f"job knows the actions list, read and kill, not {action!r}."
    raise Refused(msg)


def _read_file(bench: Workbench, args: dict[str, Any]) -> Result:
    start = int_arg(args, "start", 1, least=1)
    end = int_arg(args, "end", 0) or None
    if end is not None and end < start:
        msg = f"end ({end}) lies before start ({start})."
        raise Refused(msg)
    cap = int_arg(args, "max_bytes", KEEP_BYTES, least=1, most=files.MAX_READ_BYTES)
    return files.read_file(bench.path(args), start=start, end=end, max_bytes=cap)


def _write_file(bench: Workbench, args: dict[str, Any]) -> Result:
    return files.write_file(bench.path(args), text_arg(args, "content"))


def _edit_file(bench: Workbench, args: dict[str, Any]) -> Result:
    edits = args.get("edits")
    if edits is None:
        edits = [{"old": args.get("old"), "new": args.get("new"), "replace_all": args.get("replace_all", False)}]
    if not isinstance(edits, list) or not edits:
        msg = "give old and new, or edits: a list of {old, new, replace_all}."
        raise Refused(msg)
    return files.edit_file(bench.path(args), edits)


def _replace_function(bench: Workbench, args: dict[str, Any]) -> Result:
    path = bench.path(args)
    code = text_arg(args, "code")
    keep = flag_arg(args, "keep_docstring")
    data, said = replace_function(files.read_bytes(path), code, path=path, name=text_arg(args, "name", ""), keep_docstring=keep)
    files.write_bytes(path, data)
    return Result(said)


def _list(bench: Workbench, args: dict[str, Any]) -> Result:
    return search.list_folder(bench.path(args, "."), depth=int_arg(args, "depth", 1, least=1, most=10))


def _glob(bench: Workbench, args: dict[str, Any]) -> Result:
    return search.glob(text_arg(args, "pattern"), bench.path(args, "."))


def _grep(bench: Workbench, args: dict[str, Any]) -> Result:
    pattern, only = text_arg(args, "pattern"), text_arg(args, "glob", "")
    return search.grep(bench.commands, pattern, bench.path(args, "."), only=only, ignore_case=flag_arg(args, "ignore_case"))


def _locate(bench: Workbench, args: dict[str, Any]) -> Result:
    return Result(json.dumps(locate(text_arg(args, "output"), bench.path(args, "."))))


TABLE: dict[str, Callable[[Workbench, dict[str, Any]], Result]] = {
    "shell": _shell,
    "job": _job,
    "read_file": _read_file,
    "write_file": _write_file,
    "edit_file": _edit_file,
    "replace_function": _replace_function,
    "list": _list,
    "glob": _glob,
    "grep": _grep,
    "locate": _locate,
}

SHOWN = frozenset(TABLE) - {"locate"}
"""What models are told of; `locate` serves the small-model strategy only."""
