"""Withheld files: secret-like names, pattern files, and what the walk refuses to follow."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from massgen.config.model import ContextPath
from massgen.context import withheld
from massgen.context.names import is_cache, secret_like
from massgen.context.rules import rules_for
from massgen.context.withheld import Listing, Matcher, listing, matcher_for
from massgen.errors import ConfigError

PEM = "-----BEGIN RSA PRIVATE KEY-----\nx\n"


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def look(root: Path) -> Listing:
    return listing(root, matcher_for(root))


def reasons(found: Listing) -> dict[str, str]:
    return {w.path: w.reason for w in found.withheld}


@pytest.mark.parametrize(
    "name",
    [
        ".env", ".ENV", ".env.local", ".env.production", ".envrc", ".env.example.local", "a/b/.env", "id_rsa", "id_ed25519",
        ".netrc", "_netrc", ".git-credentials", ".pgpass", "key.p12", "x.PFX", "vault.kdbx", ".ssh", ".aws", ".gnupg", ".kube",
        ".azure", ".docker/config.json", ".config/gcloud", "application_default_credentials.json",
    ],
)  # fmt: skip
def test_secret_like_names_are_withheld(name: str):
    """In any case and at any depth."""
    assert secret_like(name)


@pytest.mark.parametrize(
    "name",
    [".env.example", ".env.sample", ".env.template", "env", "environment.py", "id_rsa.pub", "config.json", "docker/config.json",
     "keys.py", ".npmrc", "server.pem", ".gitignore", ".github", "aws"],
)  # fmt: skip
def test_ordinary_names_are_not_withheld_by_name(name: str):
    """A rule that hides too much breaks builds."""
    assert not secret_like(name)


def test_files_that_may_hold_keys_are_judged_by_what_is_in_them(tmp_path: Path):
    """Certificates and plain registries stay; private keys and tokens do not."""
    make(
        tmp_path,
        {
            "ca.pem": "-----BEGIN CERTIFICATE-----",
            "server.pem": PEM,
            "tls.key": PEM,
            "translations.key": "hello",
            ".npmrc": "registry=https://r/",
            "web/.npmrc": "//r/:_authToken=abc",
            ".pypirc": "[pypi]\npassword = x",
        },
    )
    assert reasons(look(tmp_path)) == dict.fromkeys(["server.pem", "tls.key", "web/.npmrc", ".pypirc"], "secret")


def test_git_and_massgen_are_never_context(tmp_path: Path):
    """At any depth and in any spelling, as folder and as file; not even `.massgeninclude` brings them back."""
    make(
        tmp_path,
        {
            ".git/config": "",
            "sub/.git": "gitdir: x",
            "other/.GIT/config": "",
            ".massgen/x": "",
            "a.py": "",
            ".massgeninclude": ".git\n.massgen\n",
        },
    )
    found = look(tmp_path)
    assert reasons(found) == {".git": "git", "sub/.git": "git", "other/.GIT": "git", ".massgen": "massgen"}
    assert (found.files, found.counted) == (2, ())


def test_massgenignore_hides_and_massgeninclude_brings_back(tmp_path: Path):
    """With git's syntax; what was brought back is listed, as the user must be able to see it."""
    make(
        tmp_path,
        {
            ".massgenignore": "/data/\n*.secret\n!keep.secret\n",
            ".massgeninclude": ".env.test\n",
            "data/a": "",
            "sub/data/a": "",
            "x.secret": "",
            "keep.secret": "",
            ".env": "",
            ".env.test": "",
        },
    )
    found = look(tmp_path)
    assert reasons(found) == {"data": "pattern", "x.secret": "pattern", ".env": "secret"}
    assert found.brought_back == (".env.test",)


def test_patterns_of_the_repository_hold_in_its_folders(tmp_path: Path):
    """`--write src` obeys the `.massgenignore` at the top."""
    make(
        tmp_path, {".git/HEAD": "", ".massgenignore": "/src/gen/\nlocal.*\n", "src/gen/a": "", "src/b/local.cfg": "", "gen/a": ""}
    )
    assert reasons(look(tmp_path / "src")) == {"gen": "pattern", "b/local.cfg": "pattern"}
    (tmp_path / "src/.git").mkdir()
    assert reasons(look(tmp_path / "src")) == {".git": "git"}


def test_the_walk_follows_no_link_and_opens_nothing_special(tmp_path: Path):
    """A FIFO would block it, a link would lead it out, a loop would never end."""
    outside = make(tmp_path / "outside", {"big": "x" * 1000})
    root = make(tmp_path / "root", {"a": "12345"})
    (root / "out").symlink_to(outside)
    (root / "loop").symlink_to(".")
    (root / "key.pem").symlink_to(outside / "big")
    os.mkfifo(root / "fifo.pem")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(root / "sock"))
        found = look(root)
    assert reasons(found) == {"fifo.pem": "special", "sock": "special"}
    assert (found.files, found.bytes) == (4, 5)


def test_a_pattern_file_that_is_a_link_or_a_pipe_is_an_error_not_an_empty_rule(tmp_path: Path):
    """Losing the rules silently would show what they hide."""
    (tmp_path / ".massgenignore").symlink_to("/dev/null")
    with pytest.raises(ConfigError, match="plain file"):
        matcher_for(tmp_path)


def test_too_much_is_refused_instead_of_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A tree that no draft can hold; a depth that no tool can use."""
    make(tmp_path, {f"f{i}": "" for i in range(6)})
    monkeypatch.setattr(withheld, "MAX_FILES", 5)
    with pytest.raises(ConfigError, match="more than 5 files"):
        look(tmp_path)
    monkeypatch.setattr(withheld, "MAX_FILES", 100)
    (tmp_path / "/".join(["d"] * 140)).mkdir(parents=True)
    with pytest.raises(ConfigError, match="nested deeper"):
        look(tmp_path)
    shutil.rmtree(tmp_path / "d")
    assert look(tmp_path).files == 6


@pytest.mark.parametrize("name", [".env", ".ssh", "id_rsa"])
def test_a_context_path_that_is_itself_a_secret_is_refused(tmp_path: Path, name: str):
    """Naming it does not make it less of one; `.massgeninclude` does."""
    make(tmp_path, {name: ""})
    with pytest.raises(ConfigError, match="secret-like"):
        rules_for([ContextPath(path=tmp_path / name)])
    make(tmp_path, {".massgeninclude": f"{name}\n"})
    assert rules_for([ContextPath(path=tmp_path / name)]).withhold(tmp_path / name) == ()


def test_a_single_file_is_a_context_path(tmp_path: Path):
    """With one file and nothing withheld."""
    make(tmp_path, {"notes.md": "abc"})
    found = look(tmp_path / "notes.md")
    assert (found.files, found.bytes, found.withheld) == (1, 3, ())


def test_a_folder_above_decides_for_what_is_below():
    """`reason_anywhere` judges every parent."""
    matcher = Matcher()
    assert matcher.reason_anywhere("a/.ssh/config") == "secret"
    assert matcher.reason_anywhere("a/.git/hooks/x") == "git"
    assert matcher.reason_anywhere("a/b") == ""


@pytest.mark.parametrize("path", ["a/__pycache__/b.pyc", "x.pyc", ".pytest_cache/v/x", ".coverage", "d/.hypothesis/x"])
def test_what_tools_leave_behind_is_a_cache(path: str):
    """Nobody means it as an answer."""
    assert is_cache(path)
    assert not is_cache("src/cache.py")
