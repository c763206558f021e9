"""Reading and changing files. Every write is atomic: a new file beside the old one, synced, renamed over it.

Where a rename is impossible (a file that is itself a mount point: EBUSY; a folder that is not writable) the file is
written in place; nothing else would work there.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from typing import Any, BinaryIO

from massgen.body.result import Refused, Result

MAX_FILE_BYTES = 512 * 1024 * 1024
"""Files beyond this are for shell commands."""

MAX_READ_BYTES = 4 * 1024 * 1024
"""The most that one read_file may be asked to return."""

MAX_PICTURE_BYTES = 3 * 1024 * 1024
"""As base64 it is below the limit of every provider."""

PICTURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
"""How they begin; WebP is looked at apart, its beginning holds its length."""

IN_PLACE = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)
"""Why a rename may be impossible where a plain write is not."""


def regular(path: str) -> os.stat_result:
    """The file's status. Raises: Refused when it is not a regular file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        msg = f"there is no file {path}. Look with list or glob."
        raise Refused(msg) from None
    except OSError as error:
        msg = f"cannot look at {path}: {error.strerror}."
        raise Refused(msg) from None
    if stat.S_ISDIR(status.st_mode):
        msg = f"{path} is a folder. Use list to see what is in it."
        raise Refused(msg)
    if not stat.S_ISREG(status.st_mode):
        msg = f"{path} is not a regular file (a pipe, socket or device): not touched."
        raise Refused(msg)
    if status.st_size > MAX_FILE_BYTES:
        msg = f"{path} has {status.st_size} bytes, more than the {MAX_FILE_BYTES} these tools take. Use shell (sed -n, split)."
        raise Refused(msg)
    return status


def read_bytes(path: str) -> bytes:
    """The whole file. Raises: Refused."""
    regular(path)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}."
        raise Refused(msg) from None


def read_file(path: str, *, start: int, end: int | None, max_bytes: int) -> Result:
    """Lines `start` to `end` (counted from 1, both included) as they are; says so when it stops earlier. Of a picture, itself."""
    status = regular(path)
    try:
        with open(path, "rb") as file:
            head = file.read(8192)
            if b"\0" in head:
                if kind := _picture(head):
                    return _shown(path, file, kind, status.st_size)
                msg = f"{path} is binary ({status.st_size} bytes). Use shell (xxd, file, strings)."
                raise Refused(msg)
            file.seek(0)
            at = _seek_line(file, start)
            if at < start:
                msg = f"{path} has only {at} lines, asked from line {start}."
                raise Refused(msg)
            begin = file.tell()
            data, line, cut = _take_lines(file, start, end, max_bytes)
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}."
        raise Refused(msg) from None
    text = data.decode("utf-8", "replace")
    rest = max(0, status.st_size - begin - len(data))
    if cut:
        text += f"\n[stopped in line {line} of {path}: {rest} bytes of the file follow; read on with start={line}]"
    elif end is not None and rest:
        text += f"[line {line} of {path}; {rest} bytes follow]"
    return Result(text or "[empty]" if status.st_size else "", truncated_bytes=rest if cut else 0)


def _picture(head: bytes) -> str:
    """Its kind; empty: it is none that models take."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for begin, kind in PICTURES if head.startswith(begin)), "")


def _shown(path: str, file: BinaryIO, kind: str, size: int) -> Result:
    if size > MAX_PICTURE_BYTES:
        msg = (
            f"{path} is a picture of {size} bytes, more than the {MAX_PICTURE_BYTES} that can be shown. Make a smaller one of it."
        )
        raise Refused(msg)
    file.seek(0)
    return Result(f"[{path}: a picture ({kind}, {size} bytes)]", picture=(kind, file.read(MAX_PICTURE_BYTES)))


def _seek_line(file: BinaryIO, start: int) -> int:
    """Put the file at the begin of line `start`; returns it, or the number of lines when there are fewer."""
    line = 1
    ends_open = False
    while line < start:
        block = file.read(1024 * 1024)
        if not block:
            return line if ends_open else line - 1
        count = block.count(b"\n")
        if line + count < start:
            line += count
            ends_open = not block.endswith(b"\n")
            continue
        at = -1
        for _ in range(start - line):
            at = block.index(b"\n", at + 1)
        file.seek(at + 1 - len(block), os.SEEK_CUR)
        here = file.read(1)
        if not here:
            return start - 1
        file.seek(-1, os.SEEK_CUR)
        return start
    return line


def _take_lines(file: BinaryIO, start: int, end: int | None, max_bytes: int) -> tuple[bytes, int, bool]:
    """(bytes, number of the last line begun, whether the cap ended it)."""
    data = bytearray()
    line = start
    while end is None or line <= end:
        piece = file.readline(65536)
        if not piece:
            return bytes(data), line, False
        room = max_bytes - len(data)
        if len(piece) > room:
            data += piece[:room]
            return bytes(data), line, True
        data += piece
        line += piece.endswith(b"\n")
    return bytes(data), line - 1, False


def write_bytes(path: str, data: bytes) -> bool:
    """Make the file hold exactly this; True when it is new. Folders are made; a link is followed. Raises: Refused."""
    real = os.path.realpath(path)
    try:
        mode: int | None = stat.S_IMODE(regular(real).st_mode) if os.path.lexists(real) else None
        os.makedirs(os.path.dirname(real), exist_ok=True)
        try:
            _replace(real, data, mode)
        except OSError as error:
            if mode is None or error.errno not in IN_PLACE:
                raise
            with open(real, "r+b") as file:
                file.write(data)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}. Nothing was changed; /workspace and drafts are writable."
        raise Refused(msg) from None
    return mode is None


def _replace(real: str, data: bytes, mode: int | None) -> None:
    temp = os.path.join(os.path.dirname(real), f".massgen-{secrets.token_hex(6)}.tmp")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if mode is not None:
                os.fchmod(file.fileno(), mode)
        os.rename(temp, real)
    except BaseException:
        os.unlink(temp)
        raise


def write_file(path: str, content: str) -> Result:
    """Make the file hold this text."""
    try:
        data = content.encode("utf-8")
    except UnicodeEncodeError:
        msg = "the content is not valid Unicode (a lone surrogate). Nothing was written; send it again without."
        raise Refused(msg) from None
    new = write_bytes(path, data)
    return Result(f"wrote {path}: {len(data)} bytes, {content.count(chr(10))} lines" + (" (a new file)" if new else ""))


def edit_file(path: str, edits: list[Any]) -> Result:
    """Replace exact strings, one edit after the other; all of them or none."""
    data = read_bytes(path)
    lines: list[str] = []
    for number, edit in enumerate(edits, 1):
        if not isinstance(edit, dict) or not isinstance(edit.get("old"), str) or not isinstance(edit.get("new"), str):
            msg = f"edit {number} needs old and new (strings). Nothing was changed."
            raise Refused(msg)
        data, line = _edited(path, data, edit, number)
        lines.append(line)
    write_bytes(path, data)
    return Result(f"edited {path}: " + "; ".join(lines))


def _edited(path: str, data: bytes, edit: dict[str, Any], number: int) -> tuple[bytes, str]:
    old, new = edit["old"].encode("utf-8", "replace"), edit["new"].encode("utf-8", "replace")
    if not old or old == new:
        msg = f"edit {number}: old is empty or equal to new. Nothing was changed."
        raise Refused(msg)
    if old not in data and b"\r\n" in data and b"\r\n" not in old:
        # the model saw CRLF as a line end and wrote LF: the file's own style wins
        old, new = old.replace(b"\n", b"\r\n"), new.replace(b"\n", b"\r\n")
    count = data.count(old)
    if count == 0:
        msg = f"edit {number}: old is not in {path}{_nearest(data, old)}. Nothing was changed; read_file shows the exact text."
        raise Refused(msg)
    if count > 1 and edit.get("replace_all") is not True:
        where = ", ".join(str(line) for line in _lines_of(data, old)[:8])
        msg = f"edit {number}: old is in {path} {count} times (lines {where}). Nothing was changed; "
        msg += "give more context or replace_all: true."
        raise Refused(msg)
    where = ", ".join(str(line) for line in _lines_of(data, old)[:8])
    return data.replace(old, new), f"line {where}" if count == 1 else f"{count} places (lines {where})"


def _lines_of(data: bytes, what: bytes) -> list[int]:
    found: list[int] = []
    at = data.find(what)
    while at >= 0 and len(found) < 9:
        found.append(data.count(b"\n", 0, at) + 1)
        at = data.find(what, at + len(what))
    return found


def _nearest(data: bytes, old: bytes) -> str:
    """A hint: where the first line of what was sought is, spaces aside."""
    first = next((line.strip() for line in old.splitlines() if line.strip()), b"")
    if first and first in data:
        return f" as a whole (its first line is in line {_lines_of(data, first)[0]}: check spaces and what follows)"
    return ""
