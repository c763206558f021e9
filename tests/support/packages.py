"""Real source trees: sdists from the package index the machine's pip knows, checked by hash, kept in the cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

PINNED = {
    "more-itertools": ("11.2.1", "cbf08fd0af284dc69718b9b76a8e6203df624d70209ea511e4219d350c856f63"),
    "humanize": ("4.17.0", "1d6a36c453dbfbb3f0b34601d2e0b4ce5d48d780305cd45714843f0068fde6ac"),
    "inflection": ("0.5.1", "1a29730d366e996aaacffb2f1f1cb9593dc38e2ddd30c91250c6dde09ea9b417"),
}


def source_tree(name: str, folder: Path) -> Path:
    """The package's source tree below `folder`. Skips the test, saying so, when no index answers."""
    version, sha256 = PINNED[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "massgen" / "test-sdists"
    cache.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    archive = cache / f"{stem}.tar.gz"
    if not archive.exists():
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--require-hashes", "-r"]
        done = subprocess.run([*argv, str(wanted), "-d", str(cache)], capture_output=True, text=True, timeout=200, check=False)
        if done.returncode or not archive.exists():
            pytest.skip(f"the source of {name} {version} cannot be had from a package index here: {done.stderr[-200:]}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / stem


def break_it(path: Path, right: str, wrong: str) -> None:
    """Put one bug in."""
    text = path.read_text()
    assert text.count(right) == 1, f"{right!r} is {text.count(right)} times in {path}"
    path.write_text(text.replace(right, wrong))
