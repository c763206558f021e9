"""What cannot be meant on the command line of one command: 2, a sentence with what next, and no engine was asked."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sandbox.command import main

WRONG = [
    (["--memory", "0"], "unlimited"),
    (["--memory", "-1"], "memory"),
    (["--memory", "1"], "at least 32 MiB"),
    (["--cpus", "nan"], "above zero"),
    (["--timeout", "0"], "time"),
    (["--timeout", "200h"], "at most a week"),
    (["--output", "0"], "unlimited"),
    (["--pids-limit", "0"], "above zero"),
    (["--pids-limit", "3"], "at least 8"),
    (["--pids-limit", "5000000"], "at most 4194304"),
    (["--image", ""], "empty"),
    (["--image", "a b"], "no name of an image"),
    (["--image", "../../containers/json"], "no name of an image"),
    (["--runtime", ""], "empty"),
    (["--read", ""], "empty"),
    (["--read", "/nowhere"], "create it"),
    (["--read", "/"], "home folder"),
    (["--read", "/etc"], "copy what you need"),
    (["--read", "/dev/null"], "a device"),
    (["--read", "T/fifo"], "a pipe"),
    (["--read", "T/socket"], "a socket"),
    (["--read", "T/loop"], "loop of links"),
    (["--read", "T/dangling"], "create it"),
    (["--read", "T/" + "a" * 300], "name another path"),
    (["--read", "T/no\udcfftext"], "UTF-8"),
    (["--write", "/dev/null"], "a device"),
    (["--write", "T/fifo"], "a pipe"),
    (["--workdir", ""], "empty"),
    (["--workdir", "nowhere"], "name one that is there"),
    (["--workdir", "T/a/file"], "name one that is there"),
    (["--workdir", "T/a/file/b"], "name one that is there"),
    (["--keep-changes", ""], "empty"),
    (["--keep-changes", "/nowhere/a.patch"], "folder that is there"),
    (["--keep-changes", "T"], "name a file"),
    (["--keep-changes", "T/fifo"], "name a file"),
    (["--keep-changes", "T/socket"], "name a file"),
    (["--env", "NO_SUCH_VARIABLE_HERE"], "write NO_SUCH_VARIABLE_HERE=VALUE"),
    (["--env", "=x"], "write NAME=VALUE"),
]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of things that nobody can show."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "no\udcfftext").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("x")
    return tmp_path


def told(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What it says on stderr, after the exit code 2."""
    try:
        code: object = main(args, prog="p")
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.mark.parametrize(("args", "words"), WRONG)
def test_an_option_that_cannot_be_meant_starts_something(
    odd: Path, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    """The option or the thing is named, and what to do."""
    shown = ["--read", str(odd / "a")] if "T/a/" in args[1] else []
    word = str(odd) + args[1][1:] if args[1].startswith("T") else args[1]
    assert words in told([*shown, args[0], word, "--", "true"], capsys)


@pytest.mark.parametrize("words", [[], ["--"], [""], ["--", ""], ["--", "", "true"]])
def test_no_command_is_taken_for_one(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """An empty word is no program."""
    assert "there is no command" in told(words, capsys)
