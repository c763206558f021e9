"""Extended attributes of a path itself, links not followed, by the C library: `os` has no such functions where that is musl."""

from __future__ import annotations

import ctypes
import os

MOST_BYTES = 64 * 1024
"""Linux's XATTR_LIST_MAX and XATTR_SIZE_MAX."""

_libc = ctypes.CDLL(None, use_errno=True)
_path, _name, _value, _size = ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
_libc.llistxattr.argtypes = [_path, _value, _size]
_libc.lgetxattr.argtypes = [_path, _name, _value, _size]
_libc.lsetxattr.argtypes = [_path, _name, _value, _size, ctypes.c_int]
for _call in (_libc.llistxattr, _libc.lgetxattr):
    _call.restype = ctypes.c_ssize_t


def names(place: str) -> list[str]:
    """All that we may see. Raises OSError."""
    found = ctypes.create_string_buffer(MOST_BYTES)
    count = _checked(_libc.llistxattr(os.fsencode(place), found, MOST_BYTES), place)
    return [os.fsdecode(name) for name in found.raw[:count].split(b"\0") if name]


def value(place: str, name: str) -> bytes:
    """Of one. Raises OSError: there is none (ENODATA)."""
    found = ctypes.create_string_buffer(MOST_BYTES)
    count = _checked(_libc.lgetxattr(os.fsencode(place), os.fsencode(name), found, MOST_BYTES), place)
    return found.raw[:count]


def put(place: str, name: str, content: bytes) -> None:
    """Make it so. Raises OSError."""
    _checked(_libc.lsetxattr(os.fsencode(place), os.fsencode(name), content, len(content), 0), place)


def _checked(count: int, place: str) -> int:
    if count < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), place)
    return count
