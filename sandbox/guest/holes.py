"""Where a file holds data, so that its holes neither travel nor take room at the other side. One file for both sides.

A list of `[offset, length]` in order, or None: data everywhere. Short holes count as data, and so does everything behind very
many of them: a list must stay small, whatever a hostile program makes of its file.
"""

from __future__ import annotations

import errno
import os
from typing import Any

SHORT_BYTES = 64 * 1024
MAX_EXTENTS = 4096
ZEROS = bytes(256 * 1024)

Extents = list[tuple[int, int]]


def extents(fd: int, about: os.stat_result) -> Extents | None:
    """What an open regular file holds; it is read from its start afterwards. Raises OSError."""
    size = about.st_size
    if about.st_blocks * 512 >= size or size < SHORT_BYTES:
        return None
    found: Extents = []
    at = 0
    try:
        while at < size:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            at = min(size, os.lseek(fd, begin, os.SEEK_HOLE))
            if found and begin - sum(found[-1]) < SHORT_BYTES:
                found[-1] = (found[-1][0], at - found[-1][0])
            elif begin < size:
                found.append((begin, at - begin))
            if len(found) == MAX_EXTENTS:
                found[-1] = (found[-1][0], size - found[-1][0])
                break
    except OSError as error:
        if error.errno != errno.ENXIO:  # which means: nothing but a hole from here on
            return None  # a file system that cannot tell
    finally:
        os.lseek(fd, 0, os.SEEK_SET)
    return None if found == [(0, size)] else found


def checked(value: Any, size: int) -> Extents | None:
    """What the other side sent. Raises ValueError for anything but a short, ordered list within the file."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MAX_EXTENTS:
        raise ValueError("no list of extents, or a very long one")
    found: Extents = []
    end = 0
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(n) is int for n in pair):
            raise ValueError("not an extent")
        offset, length = pair
        if offset < end or length < 1 or offset + length > size:
            raise ValueError("extents out of order, or beyond their file")
        end = offset + length
        found.append((offset, length))
    return found


def data_bytes(where: Extents | None, size: int) -> int:
    """How much there is to read."""
    return size if where is None else sum(length for _, length in where)
