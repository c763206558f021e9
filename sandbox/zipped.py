"""Programs of ours that run inside, each as one file that python runs, kept in a cache under a name made from its sources.

Such a name means that a running container never sees its program change under an upgrade, and that several processes may make
one at the same time. Compiled the sources are in it, too, by the Python that runs here: one of the same version inside starts
four times as fast, any other passes over that.
"""

from __future__ import annotations

import hashlib
import io
import marshal
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path

from sandbox import scratch
from sandbox.errors import StoreError

UNCHECKED = 1
"""PEP 552: known by a hash, which nobody compares."""
_building = threading.Lock()


def zipped(cache: Path, name: str, main: bytes, sources: Mapping[str, bytes]) -> Path:
    """`name-HASH.zip` in the folder `cache`, which is there; `main` is what runs. Readable by all. Raises StoreError."""
    digest = hashlib.sha256(MAGIC_NUMBER + main + repr(sorted(sources.items())).encode()).hexdigest()
    path = cache / f"{name}-{digest[:16]}.zip"
    with _building:  # two compilations of one source need not have the same bytes
        if not zipfile.is_zipfile(path):
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                _add(archive, "__main__.py", main)
                for inner, source in sorted(sources.items()):
                    _add(archive, inner, source)
                    _add(archive, f"{inner}c", _compiled(inner, source))
            cached(cache, path.name, buffer.getvalue())
    return path


def cached(folder: Path, name: str, content: bytes) -> Path:
    """Write once, atomically, readable by all. Raises StoreError."""
    path = folder / name
    with in_cache(folder):
        if path.exists() and path.stat().st_size == len(content):
            return path
        with scratch.replacing(path) as staged:
            staged.write_bytes(content)
            staged.chmod(0o444)
    return path


@contextmanager
def in_cache(folder: Path) -> Iterator[None]:
    """A cache that cannot be used is its user's to mend, and is said as that: which, why, what next. Raises StoreError."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(
            f"the cache folder {folder} cannot be used ({why}); make room, make it writable, or set XDG_CACHE_HOME to another",
            op="cache",
        ) from error


def _compiled(name: str, source: bytes) -> bytes:
    """A `.pyc` that is believed without a look at its source, whose times are lost in the archive."""
    code = compile(source, name, "exec", dont_inherit=True)
    return MAGIC_NUMBER + UNCHECKED.to_bytes(4, "little") + source_hash(source) + marshal.dumps(code)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
