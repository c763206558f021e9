"""Start a program: `posix_spawn` of the C library, called so that our other threads go on meanwhile.

`subprocess` holds the interpreter during vfork. Whoever stopped the child before its exec (`kill -STOP -1` in a loop) would
halt every thread of ours, the clock's and the one that hears of the host's death too. Its fork has no such window, but costs
twice the time of a whole command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
from typing import Any

SETSIGDEF, SETSIGMASK, SETSID = 0x04, 0x08, 0x80
OPAQUE_BYTES = 1024
"""More than any C library's `posix_spawnattr_t`, `posix_spawn_file_actions_t` or `sigset_t`."""

NO_START = "no program can start in this folder"
MOST_KNOWN = 64
"""Of the lists of `_actions`; each keeps a kilobyte or two."""

_libc = ctypes.CDLL(None)
_libc.posix_spawn.argtypes = [ctypes.POINTER(ctypes.c_int), ctypes.c_char_p, *[ctypes.c_void_p] * 4]


class Born:
    """A running child and our ends of its pipes."""

    def __init__(self, pid: int, stdin: int | None, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr


def start(argv: list[str], env: dict[str, str], cwd: str, *, feed: bool) -> Born:
    """The leader of a session of its own, with empty stdin unless `feed`. Raises OSError: no such program, no such folder."""
    inner: list[int] = []
    outer: list[int] = []
    try:
        for writes in (False, True, True) if feed else (True, True):
            reader, writer = os.pipe()
            inner.append(writer if writes else reader)
            outer.append(reader if writes else writer)
        pid = _spawn(_found(argv[0], env, cwd), argv, env, cwd, inner)
    except BaseException as error:
        for fd in outer:
            os.close(fd)
        if isinstance(error, OSError):
            _check_folder(cwd)  # now, not before each start: most folders are there
        raise
    finally:
        for fd in inner:
            os.close(fd)
    return Born(pid, *(outer if feed else [None, *outer]))


def _check_folder(cwd: str) -> None:
    """Raises OSError where no program can start; without a word on the folder it would read as if the program were missing."""
    try:
        if not stat.S_ISDIR(os.stat(cwd).st_mode):
            raise NotADirectoryError(20, os.strerror(20))
        if not os.access(cwd, os.X_OK):
            raise PermissionError(13, os.strerror(13))
    except OSError as error:
        raise OSError(error.errno, f"{NO_START} ({error.strerror})", cwd) from None


def _found(name: str, env: dict[str, str], cwd: str) -> str:
    """As execvp looks, in the child's own PATH. Raises OSError.

    Never from memory: what is found may be removed, and an earlier folder may get a program of the same name.
    """
    if "/" in name:
        return name
    folders = env.get("PATH", os.defpath).split(":")
    for folder in folders:
        place = f"{folder or '.'}/{name}"
        real = os.path.join(cwd, place)
        if os.access(real, os.X_OK) and not os.path.isdir(real):
            return place
    forbidden = any(os.path.exists(os.path.join(cwd, folder, name)) for folder in folders)
    trouble = 13 if forbidden else 2
    raise OSError(trouble, os.strerror(trouble), name)


def _spawn(program: str, argv: list[str], env: dict[str, str], cwd: str, inner: list[int]) -> int:
    pid = ctypes.c_int()
    key = (cwd, *inner)
    actions = _known_actions.get(key) or _actions(inner, cwd)
    try:
        words, pairs = _words(argv), _environment(env)
        _checked(_libc.posix_spawn(ctypes.byref(pid), os.fsencode(program), actions, _ATTRIBUTES, words, pairs), program)
        return pid.value
    finally:
        if len(_known_actions) < MOST_KNOWN:
            _known_actions.setdefault(key, actions)
        elif key not in _known_actions:
            _libc.posix_spawn_file_actions_destroy(actions)


def _actions(inner: list[int], cwd: str) -> Any:
    """What the child does before its exec. Descriptors mostly get the same numbers again, so it is kept for the next one."""
    actions = ctypes.create_string_buffer(OPAQUE_BYTES)
    _checked(_libc.posix_spawn_file_actions_init(actions), cwd)
    try:
        if len(inner) == 2:
            _checked(_libc.posix_spawn_file_actions_addopen(actions, 0, b"/dev/null", os.O_RDONLY, 0), cwd)
        for target, fd in zip((2, 1, 0), reversed(inner)):
            _checked(_libc.posix_spawn_file_actions_adddup2(actions, fd, target), cwd)
        _checked(_libc.posix_spawn_file_actions_addchdir_np(actions, os.fsencode(cwd)), cwd)
    except BaseException:
        _libc.posix_spawn_file_actions_destroy(actions)
        raise
    return actions


def _environment(env: dict[str, str]) -> Any:
    """The block of variables; mostly it is the last command's."""
    known, block = _known_environment[0]
    if known != env:
        block = _words([f"{k}={v}" for k, v in env.items()])
        _known_environment[0] = env, block
    return block


def _attributes() -> Any:
    """A session of its own, no signal blocked, and none ignored as Python ignores some.

    All are named, not only those: for each of the others the C library would ask first and set then, sixty calls more.
    """
    attributes, none, every = (ctypes.create_string_buffer(OPAQUE_BYTES) for _ in range(3))
    _libc.posix_spawnattr_init(attributes)
    _libc.sigemptyset(none)
    _libc.sigfillset(every)
    for number in (signal.SIGKILL, signal.SIGSTOP):  # nobody can change these two
        _libc.sigdelset(every, int(number))
    _libc.posix_spawnattr_setsigmask(attributes, none)
    _libc.posix_spawnattr_setsigdefault(attributes, every)
    _libc.posix_spawnattr_setflags(attributes, ctypes.c_short(SETSIGDEF | SETSIGMASK | SETSID))
    return attributes


def _words(texts: list[str]) -> Any:
    encoded = [os.fsencode(text) for text in texts]
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)


def _checked(number: int, path: str) -> None:
    if number:
        raise OSError(number, os.strerror(number), path)


_ATTRIBUTES = _attributes()
_known_actions: dict[tuple[Any, ...], Any] = {}
_known_environment: list[tuple[dict[str, str], Any]] = [({}, _words([]))]
