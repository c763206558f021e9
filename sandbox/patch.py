"""What an answer changes, as text that people read and `git apply` takes.

Links are shown as links (git's mode 120000), very large files are named without content, binary ones too unless they are asked
for, and where the whole has a limit what does not fit: `git apply` refuses a patch that only names a file. Folders are not
mentioned: git does not know them either. Pure: originals and contents come in as functions.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Literal

from sandbox.base import Original
from sandbox.snapshot import Entry, Snapshot

MAX_DIFF_BYTES = 1024 * 1024
"""Above this a file is named and not compared: difflib is quadratic on the worst input."""

MAX_BINARY_BYTES = 64 * MAX_DIFF_BYTES
"""Above this it is not in a patch at all: its bytes are there several times while the patch is made."""

MAX_STEPS = 100_000_000
"""For comparing all files of a patch, as `_steps_of` foresees them: some seconds. What is beyond them is shown as replaced, which
is as true; whoever changed the files may want the host to compare for hours."""
CONTEXT = 3


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """One changed file."""

    path: str
    """As shown: relative to the only write root, else with the root's name in front."""
    kind: Literal["added", "changed", "deleted"]
    added: int = 0
    removed: int = 0
    binary: bool = False
    """No lines to count: binary, or too large to compare."""
    sha256: str = ""
    """Of the new content, where there are no lines."""
    whole: bool = True
    """False: the patch names it without its bytes."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A unified diff and its figures."""

    text: str
    changes: tuple[FileChange, ...]

    @property
    def added(self) -> int:
        """Lines."""
        return sum(change.added for change in self.changes)

    @property
    def removed(self) -> int:
        """Lines."""
        return sum(change.removed for change in self.changes)


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One side of a comparison, as git sees it."""

    mode: str
    identity: str
    """Of the content: a hash, or a link's target."""
    content: bytes | None
    """None: too large to be compared."""


@dataclass(kw_only=True)
class _Patience:
    """What comparing may still take."""

    steps: int = MAX_STEPS

    def lasts(self, steps: int) -> bool:
        """Whether there was so much left; then it is gone."""
        if steps > self.steps:
            return False
        self.steps -= steps
        return True


def render(
    snapshot: Snapshot,
    *,
    original: Callable[[str, str], Original],
    content: Callable[[str], bytes],
    roots: Sequence[str],
    binary: bool = False,
    limit_bytes: float = math.inf,
) -> Patch:
    """The patch from the originals to the snapshot. `roots`: the write roots, which decide how paths are shown.

    `binary`: with the bytes of binary files, as `git apply` takes them; without, they are only named.
    `limit_bytes`: of all contents that are read; a file that would go beyond it is named, like a binary one.
    """
    prefix = prefixes(roots)
    left, patience = limit_bytes, _Patience()
    texts: list[str] = []
    changes: list[FileChange] = []
    for entry in sorted(snapshot.entries, key=lambda entry: (entry.root, entry.path)):
        name = shown(entry, prefix)
        limit = MAX_BINARY_BYTES if binary else MAX_DIFF_BYTES
        had = original(entry.root, entry.path)
        size = sum(side.size for side in (had, entry) if side.kind == "file" and side.size <= limit)
        read = content if size <= left else None
        left -= size if read else 0
        for old, new in _steps(_side(had, read, limit), _side(entry, read, limit)):
            text, change = _compare(name, old, new, binary=binary, patience=patience)
            if change.whole or not binary:  # git refuses all of a patch in which a file is only named
                texts.append(text)
            changes.append(change)
    return Patch(text="".join(texts), changes=tuple(changes))


def prefixes(roots: Sequence[str]) -> Mapping[str, str]:
    """How each root is named in front of its paths: not at all when it is the only one, else by its last name."""
    if len(roots) == 1:
        return {roots[0]: ""}
    names = [PurePosixPath(root).name for root in roots]
    return {root: (name if names.count(name) == 1 else root.lstrip("/")) + "/" for root, name in zip(roots, names, strict=True)}


def shown(entry: Entry, prefix: Mapping[str, str]) -> str:
    """The path of an entry as people read it."""
    front = prefix.get(entry.root, entry.root.lstrip("/") + "/")
    return (front + entry.path).rstrip("/") or PurePosixPath(entry.root).name


def _side(found: Original | Entry, content: Callable[[str], bytes] | None, limit: int) -> _Side | None:
    """None: nothing that a patch could show. `content` None: it is only named."""
    match found.kind:
        case "file":
            return _Side(
                mode="100755" if found.mode & 0o100 else "100644",
                identity=found.sha256,
                content=content(found.sha256) if content and found.size <= limit else None,
            )
        case "link":
            return _Side(mode="120000", identity=found.target, content=_raw(found.target))
        case _:
            return None


def _steps(old: _Side | None, new: _Side | None) -> Iterator[tuple[_Side | None, _Side | None]]:
    """A file that becomes a link (or the reverse) is a deletion and an addition, as in git."""
    if old == new:
        return
    if old and new and (old.mode == "120000") != (new.mode == "120000"):
        yield old, None
        yield None, new
        return
    yield old, new


def _compare(name: str, old: _Side | None, new: _Side | None, *, binary: bool, patience: _Patience) -> tuple[str, FileChange]:
    a, b = _quoted(f"a/{name}"), _quoted(f"b/{name}")
    head = [f"diff --git {a} {b}\n"]
    kind: Literal["added", "changed", "deleted"] = "changed"
    if old is None and new is not None:
        head.append(f"new file mode {new.mode}\n")
        kind, a = "added", "/dev/null"
    elif new is None and old is not None:
        head.append(f"deleted file mode {old.mode}\n")
        kind, b = "deleted", "/dev/null"
    elif old is not None and new is not None and old.mode != new.mode:
        head.append(f"old mode {old.mode}\nnew mode {new.mode}\n")
    before, after = _text(old), _text(new)
    if before is None or after is None:
        differ = old is None or new is None or old.identity != new.identity
        body = f"Binary files {a} and {b} differ\n" if differ else ""
        whole = binary and (old is None or old.content is not None) and (new is None or new.content is not None)
        if differ and whole:
            body = _binary(old, new)
        sha256 = new.identity if new else ""
        change = FileChange(path=name, kind=kind, binary=True, sha256=sha256, whole=whole or not differ)
        return "".join(head) + body, change
    if old is None or new is None:
        gone = new is None
        lines, body = _whole(after or before, a, b, "-" if gone else "+")
        return "".join(head) + body, FileChange(path=name, kind=kind, added=0 if gone else lines, removed=lines if gone else 0)
    diff = list(_unified(_lines(before), _lines(after), a, b, patience))
    added = sum(line.startswith("+") for line in diff[2:])
    removed = sum(line.startswith("-") for line in diff[2:])
    body = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in diff)
    return "".join(head) + body, FileChange(path=name, kind=kind, added=added, removed=removed)


def _unified(before: list[str], after: list[str], a: str, b: str, patience: _Patience) -> Iterator[str]:
    """Compared where that is not too much, else all between the first and the last difference as replaced."""
    same = next((n for n, (x, y) in enumerate(zip(before, after, strict=False)) if x != y), min(len(before), len(after)))
    ends = zip(reversed(before[same:]), reversed(after[same:]), strict=False)
    tail = next((n for n, (x, y) in enumerate(ends) if x != y), min(len(before), len(after)) - same)
    old, new = before[same : len(before) - tail], after[same : len(after) - tail]
    if patience.lasts(_steps_of(old, new)):
        yield from difflib.unified_diff(before, after, a, b, n=CONTEXT)
        return
    first, last = max(same - CONTEXT, 0), min(tail, CONTEXT)
    lead, trail = before[first:same], after[len(after) - tail :][:last]
    counts = [len(lead) + len(part) + len(trail) for part in (old, new)]
    here, there = (f"{first + bool(count)},{count}" for count in counts)
    yield from (f"--- {a}\n", f"+++ {b}\n", f"@@ -{here} +{there} @@\n")
    for sign, part in ((" ", lead), ("-", old), ("+", new), (" ", trail)):
        yield from (sign + line for line in part)


def _steps_of(old: list[str], new: list[str]) -> int:
    """What difflib may do at worst: a pass over all pairs of equal lines for each place where equal ones do not go on."""
    times = Counter(new)
    if len(new) >= 200:  # from here on difflib overlooks what is frequent
        times = Counter({line: count for line, count in times.items() if count <= len(new) // 100 + 1})
    pairs = sum(times[line] for line in old) + len(old)
    follow = set(pairwise(new))
    breaks = sum(times[pair[0]] > 0 and pair not in follow for pair in pairwise(old))
    return pairs * (breaks + 1)


def _binary(old: _Side | None, new: _Side | None) -> str:
    """Git's own form: both versions whole, compressed, in base 85; the names of the blobs say what it applies to."""
    mode = f" {new.mode}" if old and new and old.mode == new.mode else ""
    return f"index {_blob(old)}..{_blob(new)}{mode}\nGIT binary patch\n{_literal(new)}\n{_literal(old)}\n"


def _blob(side: _Side | None) -> str:
    if side is None or side.content is None:
        return "0" * 40
    return hashlib.sha1(b"blob %d\0" % len(side.content) + side.content, usedforsecurity=False).hexdigest()


def _literal(side: _Side | None) -> str:
    content = side.content if side and side.content is not None else b""
    packed = zlib.compress(content)
    rows = [packed[at : at + 52] for at in range(0, len(packed), 52)]
    lengths = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    body = "".join(f"{lengths[len(row) - 1]}{base64.b85encode(row, pad=True).decode()}\n" for row in rows)
    return f"literal {len(content)}\n{body}"


def _whole(text: str, a: str, b: str, sign: Literal["+", "-"]) -> tuple[int, str]:
    """A file that is new, or gone: its lines and their diff, as difflib would have it at a twentieth of the speed."""
    if not text:
        return 0, ""
    torn = not text.endswith("\n")
    count = text.count("\n") + torn
    here = "1" if count == 1 else f"1,{count}"
    where = f"@@ -0,0 +{here} @@" if sign == "+" else f"@@ -{here} +0,0 @@"
    body = sign + text.removesuffix("\n").replace("\n", f"\n{sign}")
    end = "\n\\ No newline at end of file\n" if torn else "\n"
    return count, f"--- {a}\n+++ {b}\n{where}\n{body}{end}"


def _text(side: _Side | None) -> str | None:
    """The content, empty where there is no file; None for what is not text."""
    if side is None:
        return ""
    if side.content is None or len(side.content) > MAX_DIFF_BYTES or b"\0" in side.content[:8192]:
        return None
    try:
        return side.content.decode()
    except UnicodeDecodeError:
        return None


def _lines(text: str) -> list[str]:
    """Only a newline ends one: a form feed or U+2028 does not."""
    lines = text.split("\n")
    return [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


_PLAIN = re.compile(r"[ !#-\[\]-~]*")


def _quoted(name: str) -> str:
    """As git quotes a path: only where it must, bytes as octal."""
    if _PLAIN.fullmatch(name):
        return name
    raw = _raw(name)
    try:
        if all(char.isprintable() and char not in '"\\' for char in raw.decode()):
            return name
    except UnicodeDecodeError:
        pass
    return '"' + "".join(chr(b) if 0x20 <= b < 0x7F and b not in b'"\\' else f"\\{b:03o}" for b in raw) + '"'
