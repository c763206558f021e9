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
NUMBERS = {  # x86_64, aarch64
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "process_vm_readv": (310, 270), "ptrace": (101, 117),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142),
    "swapon": (167, 224), "settimeofday": (164, 170), "acct": (163, 89), "quotactl": (179, 60), "syslog": (103, 116),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262), "renameat2": (316, 276),
    "io_uring_setup": (425, 425), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "mount_setattr": (442, 442), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "sethostname": (170, 161), "process_vm_writev": (311, 271),
}
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
    source = f"{PRELUDE}{program}\nprint(json.dumps(seen))\n"
    outcome = await box.run(["python3", "-I", "-c", source, *arguments], timeout_s=timeout_s)
    assert outcome.ok, f"{outcome.reason} {outcome.exit_code} {outcome.message}\n{outcome.stderr.text[-2000:]}"
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
