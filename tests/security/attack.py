"""How the tests in this folder and in `tests/docker` attack: a small language of attempts, run inside a real sandbox.

An attempt never stops the others; it is reported as "done" (or what it returned), or as the name of its errno. So each test
reads as a table of what was tried and what has to come of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox import Limits, Sandbox
from tests.security.syscalls import NUMBERS

MIB = 1024 * 1024
SMALL = Limits(
    memory_bytes=96 * MIB,
    pids=64,
    workspace_bytes=16 * MIB,
    tmp_bytes=8 * MIB,
    inodes=2000,
    output_bytes=64 * 1024,
    open_files=256,
    command_timeout_s=20,
)
"""Tight, so that a limit is reached in a moment."""

PRELUDE = r"""
import ctypes, errno, json, os, platform, signal, socket, stat, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]
seen = {}
def name_of(error):
    return errno.errorcode.get(error.errno, str(error.errno))
def attempt(name, work):
    try:
        value = work()
        seen[name] = "done" if value is None else value
    except OSError as error:
        seen[name] = name_of(error)
def checked(value):
    if value == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return value
def call(name, *arguments):
    words = [ctypes.c_char_p(a) if isinstance(a, bytes) else a if a is None else ctypes.c_long(a) for a in arguments]
    checked(libc.syscall(ctypes.c_long(NUMBERS[name][COLUMN]), *words))
def write(path, flags=os.O_WRONLY):
    fd = os.open(path, flags, 0o600)
    try:
        os.write(fd, b"evil")
    finally:
        os.close(fd)
def read(path, count=4096):
    with open(path, "rb") as file:
        return file.read(count).decode("utf-8", "replace")
"""


async def report(box: Sandbox, program: str, *arguments: str, timeout_s: float = 20) -> dict[str, Any]:
    """Run a program of attempts inside; what came of each."""
    source = f"NUMBERS = {NUMBERS}{PRELUDE}{program}\nprint(json.dumps(seen))\n"
    outcome = await box.run(["python3", "-I", "-c", source, *arguments], timeout_s=timeout_s)
    assert outcome.ok, f"{outcome.reason} {outcome.exit_code} {outcome.why}\n{outcome.stderr.text[-2000:]}"
    return dict(json.loads(outcome.stdout.text.splitlines()[-1]))


def portrait(folder: Path, *, folder_times: bool = True) -> dict[str, tuple[object, ...]]:
    """Everything of a folder that a write would change: kind, mode, owner, bytes, mtime, link text."""
    return {str(path.relative_to(folder)): _face(path, folder_times=folder_times) for path in _all(folder)}


def _all(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def _face(path: Path, *, folder_times: bool) -> tuple[object, ...]:
    about = path.lstat()
    mtime_ns = 0 if path.is_dir() and not folder_times else about.st_mtime_ns
    content: object = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return about.st_mode, about.st_uid, mtime_ns, content
