"""What the words of a command line ask for: a `Job`, or a SpecError that says which of them cannot be meant, and what instead.

All that can be judged without an engine is judged here, so that nothing is started for what cannot be kept.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sandbox.drafts import tree
from sandbox.errors import SpecError
from sandbox.execute import Job
from sandbox.facts import cache_folder, state_folder
from sandbox.gitmask import git_root
from sandbox.plan_checks import check_image, check_limits, check_target
from sandbox.repository import MAX_BYTES
from sandbox.spec import WORKSPACE, Limits, Mount
from sandbox.views import agent_uid, foresee

_KINDS = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def job_of(given: Any, argv: Sequence[str], rules: Mapping[str, Any], *, tell: Callable[[str], None]) -> Job:  # noqa: ANN401 - argparse's own namespace
    """Raises SpecError. `tell` hears what is done otherwise than one might think."""
    check_image(given.image)
    limits = Limits(memory_bytes=given.memory, cpus=given.cpus, pids=given.pids_limit, command_timeout_s=given.timeout)
    check_limits(limits)
    if given.keep_changes and not _writable(Path(given.keep_changes)):
        raise SpecError(f"--keep-changes {given.keep_changes} cannot be written; name a file in a folder that is there")
    here = _here(given)
    write = [_shown(path) for path in given.write]
    read = [_shown(path) for path in given.read]
    cwd = WORKSPACE
    if not given.no_cwd and not any(here.is_relative_to(path) for path in (*write, *read)):
        if why := _unfit(here)[0]:
            tell(f"{here} is {why} and not shown; the command starts in {given.workdir or WORKSPACE}")
        else:
            write.append(_with_repository(here, (*write, *read)))
    if any(here.is_relative_to(path) for path in (*write, *read)):
        cwd = str(here)
    return Job(
        argv=argv,
        image=given.image,
        limits=limits,
        disk_bytes=given.disk,
        read=tuple(read),
        write=tuple(write),
        cwd=cwd if given.workdir is None else _start(given.workdir, cwd, (*write, *read)),
        env=_environment(given.env),
        patch=bool(given.keep_changes),
        peaks=given.stats or given.json,
        idle_timeout_s=given.idle_timeout,
        max_output_bytes=given.output,
        runtime=given.runtime or "",
        **{name: rule for name, rule in rules.items() if rule},
    )


def _here(given: Any) -> Path:  # noqa: ANN401 - same
    try:
        return Path.cwd().resolve()
    except FileNotFoundError:
        if given.no_cwd:
            return Path("/")
        raise SpecError("the folder you stand in is no longer there; cd to another one, or say --no-cwd") from None


def _shown(typed: str) -> Path:
    try:
        path = Path(typed).resolve()
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        raise SpecError(f"{typed} does not exist; create it or leave it out") from None
    except (OSError, RuntimeError, ValueError) as error:  # resolve() says RuntimeError for a loop of links
        why = getattr(error, "strerror", None) or "a loop of links"
        raise SpecError(f"{typed[:200]} cannot be looked at ({why}); name another path, or leave it out") from error
    if kind not in (stat.S_IFDIR, stat.S_IFREG):
        what = _KINDS.get(kind, "something else")
        raise SpecError(f"{typed} is neither a folder nor a regular file but {what}, and is not shown to commands; leave it out")
    why, instead = _unfit(path)
    if why:
        raise SpecError(f"{typed} is {why} and is not shown to commands; {instead}")
    return path


def _start(typed: str, cwd: str, shown: Sequence[Path]) -> str:
    """`--workdir` as a path inside; what is shown is looked at here. What the image has, nobody knows before it runs."""
    start = Path(os.path.normpath(PurePosixPath(cwd, typed)))
    if any(start.is_relative_to(path) for path in shown):
        _check_folder(start, typed)
    return str(start)


def _check_folder(start: Path, typed: str) -> None:
    try:
        kind = stat.S_IFMT(start.stat().st_mode)
    except OSError as error:
        raise SpecError(f"--workdir {typed[:200]}: {start} is not a folder ({error.strerror}); name one that is there") from error
    if kind != stat.S_IFDIR:
        raise SpecError(f"--workdir {typed}: {start} is not a folder; name one that is there")


def _with_repository(here: Path, named: Sequence[Path]) -> Path:
    """What is shown for the folder one stands in: of a repository all, or git and whatever looks above would find nothing.

    Only the folder where all of it would be too much to copy, or somebody named a part of it to be shown otherwise.
    """
    top = git_root(here) or here
    if top == here or _unfit(top)[0] or any(path.is_relative_to(top) for path in named):
        return here
    if foresee(Mount(source=top, mode="draft"), uid=agent_uid()).kind == "overlay":
        return top
    return top if sum(found.size for found in tree(top)) <= MAX_BYTES else here


def _writable(file: Path) -> bool:
    """A folder that takes it; or what is there, but for what nobody may read from: a pipe of the shell's own is one of ours."""
    try:
        kind = stat.S_IFMT(file.stat().st_mode)
    except FileNotFoundError:
        return file.parent.is_dir() and os.access(file.parent, os.W_OK)
    except OSError:
        return False
    waits = kind == stat.S_IFIFO and not os.path.realpath(file).startswith("/proc/")
    return kind not in (stat.S_IFDIR, stat.S_IFSOCK) and not waits and os.access(file, os.W_OK)


def _unfit(folder: Path) -> tuple[str, str]:
    """Why it is not shown, and what to do instead; empty: it can be."""
    if folder == Path("/") or Path.home().resolve().is_relative_to(folder):
        return "your home folder, or holds it,", "name a folder in it, or copy what you need"
    if any(own.is_relative_to(folder) or folder.is_relative_to(own) for own in (cache_folder(), state_folder())):
        return "where massgen keeps its own files", "name another folder"
    try:
        str(folder).encode()
        check_target(str(folder))
    except UnicodeEncodeError:
        return "of a name that is no text (UTF-8), which engines cannot be told,", "rename it"
    except SpecError:
        return "where a container has its own system,", "copy what you need of it into a folder of yours, and name that"
    return "", ""


def _environment(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, is_given, value = word.partition("=")
        if not name or (not is_given and name not in os.environ):
            raise SpecError(f"--env {word}: there is no such variable; write {name or 'NAME'}=VALUE")
        found[name] = value if is_given else os.environ[name]
    return found
