"""A project with everything that a naive copy loses: applied and taken back byte for byte, twice, through the command line."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.user import User, agent, say

pytestmark = pytest.mark.docker

MANY_BYTES, BIG_BYTES = 40 * 1024**2, 200 * 1024**2
LATIN = os.fsdecode(b"caf\xe9.txt")
"""A name that is not UTF-8."""

WORK = r"""
set -e
printf 'one\r\ntwo changed\r\nthree\r\n' > dos.txt
chmod 755 script.sh && chmod 644 was_program
ln -sfn dos.txt link && rm gone_link
rm -r removed && mkdir -p made/deep && printf x > made/deep/x && chmod 700 made/deep
printf tail >> big.bin
python3 - <<'END'
import os
open(b"caf\xe9.txt", "ab").write(b"more\xff\n")
open(b"new\n\xfe name", "wb").write(b"\0\xff")
END
printf 'seven\n' >> vendor/part/lib.c
printf more >> ../second/notes
! touch ../docs/planted 2>/dev/null
"""


def everything(root: Path) -> dict[str, tuple[object, ...]]:
    """Kind, mode and content (hashed) of all there is, `.git` included."""
    found: dict[str, tuple[object, ...]] = {}
    for place in root.rglob("*"):
        about = place.lstat()
        mode = stat.S_IMODE(about.st_mode)
        if stat.S_ISLNK(about.st_mode):
            found[str(place)] = ("link", str(place.readlink()))
        elif stat.S_ISDIR(about.st_mode):
            found[str(place)] = ("dir", mode)
        else:
            with place.open("rb") as file:
                found[str(place)] = ("file", mode, hashlib.file_digest(file, "sha256").hexdigest())
    return found


def git(folder: Path, *words: str) -> None:
    """The user's own git."""
    who = ("-c", "user.name=u", "-c", "user.email=u@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


@pytest.fixture(params=[MANY_BYTES, pytest.param(BIG_BYTES, marks=pytest.mark.slow)])
def big_bytes(request: pytest.FixtureRequest) -> int:
    """Of the largest file."""
    return int(request.param)


@pytest.fixture
def user(tmp_path: Path, big_bytes: int) -> User:
    user = User(tmp_path / "home")
    part = user.cwd / "part"
    user.write("part/lib.c", "six\n")
    git(part, "init", "-q", "-b", "trunk")
    git(part, "add", "-A")
    git(part, "commit", "-qm", "part")
    root = user.cwd / "first"
    for path, text in {
        "dos.txt": "one\r\ntwo\r\nthree\r\n",
        "script.sh": "#!/bin/sh\n",
        "removed/a": "a",
        "removed/b/c": "c",
    }.items():
        user.write(f"first/{path}", text)
    (root / "dos.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    user.write("first/was_program", "x").chmod(0o755)
    user.write("first/private", "mode 0600").chmod(0o600)
    (root / LATIN).write_bytes(b"caf\xe9\n")
    (root / "link").symlink_to("script.sh")
    (root / "gone_link").symlink_to("../nowhere")
    with (root / "big.bin").open("wb") as file:
        for number in range(big_bytes // 1024**2):
            file.write(number.to_bytes(4, "big") * 1024 * 256)
    git(root, "init", "-q", "-b", "trunk")
    git(root, "submodule", "add", "-q", str(part), "vendor/part")
    user.write("second/notes", "notes")
    user.write("docs/note.txt", "read me")
    paths = [
        {"path": "first", "permission": "write"},
        {"path": "second", "permission": "write"},
        {"path": "docs", "permission": "read"},
    ]
    limits = {"disk": "2g", "memory": "2g"}
    user.write(
        "team.yaml",
        {"agents": [agent("one", "one.yaml")], "orchestrator": {"context_paths": paths, "write": "review"}, "sandbox": limits},
    )
    user.write("one.yaml", [say(shell=WORK), say(answer="Done."), *[say(vote="$own")] * 3, say(final="Done.")])
    return user


def test_nothing_of_a_project_is_lost_on_the_way_there_and_back(user: User, big_bytes: int) -> None:
    """Two write paths and a read path; a submodule, links, modes, CRLF, 40 or 200 MB of binary, names outside UTF-8."""
    done = user.massgen("run", "Change all of it", "--config", "team.yaml", "--no-display")
    assert done.returncode == 0, done.stderr
    partial = user.massgen("diff").stderr
    assert ("not in this patch: first/big.bin" in partial) is (big_bytes == BIG_BYTES), partial
    before = everything(user.cwd)
    root = user.cwd / "first"
    for _ in range(2):
        applied = user.massgen("apply", "--yes")
        assert applied.returncode == 0, applied.stderr
        after = everything(user.cwd)
        changed = {os.path.relpath(p, root) for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
        assert changed == {
            *("dos.txt", "script.sh", "was_program", "link", "gone_link", "big.bin", LATIN, os.fsdecode(b"new\n\xfe name")),
            *("removed", "removed/a", "removed/b", "removed/b/c", "made", "made/deep", "made/deep/x"),
            *("vendor/part/lib.c", "../second/notes"),
        }
        assert (user.cwd / "first" / "dos.txt").read_bytes() == b"one\r\ntwo changed\r\nthree\r\n"
        assert (user.cwd / "first" / "big.bin").stat().st_size == big_bytes + 4
        assert stat.S_IMODE((user.cwd / "first" / "script.sh").stat().st_mode) == 0o755
        assert stat.S_IMODE((user.cwd / "first" / "made" / "deep").stat().st_mode) == 0o700
        undone = user.massgen("undo")
        assert undone.returncode == 0, undone.stderr
        assert everything(user.cwd) == before
