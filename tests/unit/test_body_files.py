"""The body's files: reading, writing, editing, finding."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.body_pipe import Body


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Body]:
    """One body for all: paths are absolute here."""
    with Body(tmp_path_factory.mktemp("body")) as started:
        yield started


@pytest.fixture
def body(shared: Body) -> Body:
    return shared


def test_reading_gives_the_exact_text(body: Body, tmp_path: Path) -> None:
    """Line ends, a missing last one and non-ASCII come back as they are."""
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\ntwo\nthree é".encode())
    assert body.ok("read_file", path=str(path)) == "one\r\ntwo\nthree é"
    assert body.ok("read_file", path=str(path), start=2, end=2).startswith("two\n[line 2")
    assert body.ok("read_file", path=str(path), start=3) == "three é"
    assert "3 lines" in body.refused("read_file", path=str(path), start=4)
    assert "before" in body.refused("read_file", path=str(path), start=3, end=1)


def test_a_cut_read_says_where_to_go_on(body: Body, tmp_path: Path) -> None:
    """Following the advice reaches every byte."""
    path = tmp_path / "long.txt"
    path.write_text("".join(f"line {n}\n" for n in range(1, 20001)), encoding="utf-8")
    result = body.act("read_file", path=str(path))
    assert result["truncated_bytes"] == path.stat().st_size - 32 * 1024
    start = int(result["text"].rsplit("start=", 1)[1].rstrip("]"))
    assert body.ok("read_file", path=str(path), start=start, end=start).startswith(f"line {start}\n")


def test_a_file_of_five_hundred_megabytes_is_read_by_range(body: Body, tmp_path: Path) -> None:
    """Streamed: the last line of a sparse giant comes without loading it. Beyond the limit: refused, with advice."""
    path = tmp_path / "giant.txt"
    with path.open("wb") as file:
        file.write(b"first\n" * 2000)
        file.truncate(500_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast\n")
    assert body.ok("read_file", path=str(path), start=2002) == "last\n"
    os.truncate(path, 600_000_000)
    assert "sed" in body.refused("read_file", path=str(path))


def test_what_is_not_a_text_file_is_refused_in_words(body: Body, tmp_path: Path) -> None:
    """A missing file, a folder, a pipe (which would block for ever), a binary."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bin").write_bytes(b"\x7fELF\0\0")
    assert "no file" in body.refused("read_file", path=str(tmp_path / "missing"))
    assert "folder" in body.refused("read_file", path=str(tmp_path))
    assert "pipe" in body.refused("read_file", path=str(tmp_path / "pipe"))
    assert "binary" in body.refused("read_file", path=str(tmp_path / "bin"))
    assert "pipe" in body.refused("write_file", path=str(tmp_path / "pipe"), content="x")
    assert "folder" in body.refused("write_file", path=str(tmp_path), content="x")
    assert "empty" in body.refused("read_file", path="")
    assert "NUL" in body.refused("read_file", path="a\0b")


def test_a_picture_is_shown_and_what_only_begins_like_one_is_not(body: Body, tmp_path: Path) -> None:
    """Whole, with its kind; one that no provider takes is refused in words; text stays text."""
    begins = {"image/png": b"\x89PNG\r\n\x1a\n\0", "image/jpeg": b"\xff\xd8\xff\0", "image/webp": b"RIFF\0\0\0\0WEBP"}
    for kind, begin in begins.items():
        (tmp_path / "picture").write_bytes(begin + bytes(range(256)) * 100)
        picture = body.act("read_file", path=str(tmp_path / "picture"))["picture"]
        assert picture["media_type"] == kind
        assert base64.b64decode(picture["data"]) == (tmp_path / "picture").read_bytes()
    (tmp_path / "picture").write_bytes(begin + bytes(4 * 1024**2))
    assert "smaller" in body.refused("read_file", path=str(tmp_path / "picture"))
    (tmp_path / "text").write_text("GIF89a is how it begins\n")
    assert body.ok("read_file", path=str(tmp_path / "text")) == "GIF89a is how it begins\n"


def test_a_write_keeps_mode_and_link_and_leaves_nothing_beside(body: Body, tmp_path: Path) -> None:
    """The mode stays, a link is followed and stays a link, readers of the old file keep it, no temporary file stays."""
    real = tmp_path / "real.sh"
    real.write_text("old", encoding="utf-8")
    real.chmod(0o750)
    link = tmp_path / "link.sh"
    link.symlink_to("real.sh")
    before = real.open(encoding="utf-8")
    body.ok("write_file", path=str(link), content="new\n")
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8") == "new\n"
    assert real.stat().st_mode & 0o777 == 0o750
    assert before.read() == "old", "the old content must not be written over"
    before.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.sh", "real.sh"]
    assert "a new file" in body.ok("write_file", path=str(tmp_path / "a/b/c.txt"), content="é")


def test_a_file_that_is_a_mount_point_is_written_in_place(body: Body, tmp_path: Path) -> None:
    """Nothing can be renamed over it (EBUSY), and yet it is written."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("a long old text", encoding="utf-8")
    target.write_text("", encoding="utf-8")
    if os.system(f"mount --bind {source} {target} 2>/dev/null"):
        pytest.skip("mounting is not possible here")
    try:
        body.ok("write_file", path=str(target), content="short")
        assert source.read_text(encoding="utf-8") == "short"
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        os.system(f"umount {target}")


def test_an_edit_that_is_not_clear_changes_nothing(body: Body, tmp_path: Path) -> None:
    """Not found, found twice, half of a list: the file stays, and the message helps."""
    path = tmp_path / "f.py"
    text = "a = 1\nb = 1\nif a:\n    b = 2\n"
    path.write_text(text, encoding="utf-8")
    assert "lines 1, 2" in body.refused("edit_file", path=str(path), old="= 1", new="= 3")
    assert "first line is in line 3" in body.refused("edit_file", path=str(path), old="if a:\n  b = 2", new="x")
    two = [{"old": "a = 1", "new": "a = 9"}, {"old": "nowhere", "new": "x"}]
    assert "edit 2" in body.refused("edit_file", path=str(path), edits=two)
    assert "equal" in body.refused("edit_file", path=str(path), old="a", new="a")
    assert "old and new" in body.refused("edit_file", path=str(path))
    assert "edits" in body.refused("edit_file", path=str(path), edits=[])
    assert path.read_text(encoding="utf-8") == text


def test_edits_are_done_in_order(body: Body, tmp_path: Path) -> None:
    """A later edit sees what an earlier one wrote; replace_all takes every place; bytes that are no text survive."""
    path = tmp_path / "f.txt"
    path.write_bytes(b"a a\r\nb\xff\r\n")
    edits = [{"old": "a", "new": "c", "replace_all": True}, {"old": "c c\nb", "new": "d\nb"}]
    body.ok("edit_file", path=str(path), edits=edits)
    assert path.read_bytes() == b"d\r\nb\xff\r\n"


def test_finding_leaves_out_what_tools_keep_for_themselves(body: Body, tmp_path: Path) -> None:
    """list, glob and grep see sources, not .git and caches."""
    for name in ("src/a.py", "src/deep/b.py", "README.md", ".git/config", "__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"needle in {name}\n", encoding="utf-8")
    root = str(tmp_path)
    assert body.ok("list", path=root).splitlines() == [".git/", "README.md (20 bytes)", "__pycache__/", "src/"]
    assert "    b.py" in body.ok("list", path=root, depth=3)
    assert body.ok("glob", path=root, pattern="*.py").splitlines() == [f"{root}/src/a.py", f"{root}/src/deep/b.py"]
    assert body.ok("glob", path=root, pattern="src/*.py").splitlines() == [f"{root}/src/a.py"]
    assert body.ok("glob", path=root, pattern="src/**/[ab].py").splitlines() == [f"{root}/src/a.py", f"{root}/src/deep/b.py"]
    assert f"{root}/src/deep/b.py:1:needle in src/deep/b.py" in body.ok("grep", path=root, pattern="ne+dle")
    assert body.ok("grep", path=root, pattern="NEEDLE", ignore_case=True, glob="*.md").strip().endswith("README.md")
    assert body.ok("grep", path=root, pattern="absent") == "no matches"
    assert ".git/config" not in body.ok("grep", path=root, pattern="needle")
    assert "regular expression" in body.refused("grep", path=root, pattern="(").replace("regex", "regular expression")
    assert "no folder" in body.refused("list", path=root + "/absent")
    assert "file" in body.refused("list", path=root + "/README.md")


def test_without_ripgrep_grep_still_works(tmp_path: Path) -> None:
    """The image may have none: Python searches, with the same answer."""
    (tmp_path / "a.py").write_text("x = 1\ny = 2\n", encoding="utf-8")
    (tmp_path / "b.bin").write_bytes(b"y = 2\0")
    with Body(tmp_path, env={"PATH": "/nowhere"}) as body:
        assert body.ok("grep", pattern="y = \\d") == f"{tmp_path}/a.py:2:y = 2"
        assert body.ok("grep", pattern="Y", ignore_case=True, glob="*.py", path=".") == f"{tmp_path}/a.py:2:y = 2"
        assert "not a regular expression" in body.refused("grep", pattern="(")
