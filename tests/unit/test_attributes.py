"""The guest's own calls for extended attributes say what Python's say, where it has them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sandbox.guest import attributes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One on a file system that keeps attributes."""
    place = tmp_path / os.fsdecode(b"odd \xff name")
    place.write_text("content")
    try:
        os.setxattr(place, "user.first", b"1")
    except OSError as error:
        pytest.skip(f"no attributes here: {error}")
    return place


def test_an_attribute_is_read_as_it_was_written(file: Path) -> None:
    """Any bytes, none, and many; in both directions."""
    for name, content in {"user.empty": b"", "user.zeros": b"a\0b\xff", "user.long": bytes(2000), "user.first": b"new"}.items():
        attributes.put(str(file), name, content)
        assert os.getxattr(file, name) == content
        assert attributes.value(str(file), name) == content
    assert sorted(attributes.names(str(file))) == sorted(os.listxattr(file))
    assert len(attributes.names(str(file))) == 4


def test_a_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    """Nor can a link have some that anybody sets."""
    link = tmp_path / "link"
    link.symlink_to(file)
    assert "user.first" not in attributes.names(str(link))
    with pytest.raises(OSError):  # noqa: PT011 - which one is the kernel's
        attributes.value(str(link), "user.first")


def test_what_is_not_there_has_its_own_number(file: Path) -> None:
    """As the callers look at it."""
    with pytest.raises(OSError, match="No data available") as none:
        attributes.value(str(file), "user.other")
    assert none.value.errno == errno.ENODATA
    with pytest.raises(FileNotFoundError) as gone:
        attributes.names(str(file) + "x")
    assert gone.value.filename == str(file) + "x"
