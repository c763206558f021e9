"""How much of a repository is shown: nothing withheld can be read in what is, however it came in there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from massgen.config.model import ContextPath
from massgen.context.history import Repository
from massgen.context.rules import rules_for

KEY = "-----BEGIN PRIVATE KEY-----\nMIIabc\n"


class Project:
    """A repository as a user makes one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "-q", "-b", "main")
        self.write("code.txt", "code\n")
        self.commit("first")

    def git(self, *words: str) -> str:
        identity = ("-c", "user.name=u", "-c", "user.email=u@example.org", "-c", "gc.auto=0")
        return subprocess.run(["git", *identity, *words], cwd=self.root, check=True, capture_output=True, text=True).stdout

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def commit(self, message: str) -> None:
        self.git("add", "-A", "-f")
        self.git("commit", "-qm", message)

    def judged(self) -> Repository:
        return rules_for([ContextPath(path=self.root)]).repository(self.root)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


def nothing(_: Project) -> None:
    pass


def ignored(p: Project) -> None:
    p.write(".gitignore", ".env\n")
    p.git("add", ".gitignore")
    p.git("commit", "-qm", "ignore")
    p.write(".env", "SECRET=1")


def example(p: Project) -> None:
    p.write(".env.example", "SECRET=")
    p.write("certificate.pem", "-----BEGIN CERTIFICATE-----")
    p.commit("harmless")


def amended(p: Project) -> None:
    p.write("code.txt", "better")
    p.git("commit", "-qa", "--amend", "-m", "reached by the reflog alone")


@pytest.mark.parametrize("history", [nothing, ignored, example, amended])
def test_a_history_without_secrets_is_hidden(project: Project, history: Callable[[Project], None]) -> None:
    """What was never added is not in it, and what only looks like a secret is none."""
    history(project)
    assert project.judged() == Repository(view="clean")


def tracked(p: Project) -> str:
    p.write("deep/.env", "SECRET=1")
    p.commit("oops")
    return "deep/.env is in its history"


def removed(p: Project) -> str:
    tracked(p)
    (p.root / "deep/.env").unlink()
    p.commit("gone")
    return "deep/.env is in its history"


def on_another_branch(p: Project) -> str:
    p.git("checkout", "-qb", "other")
    tracked(p)
    p.git("checkout", "-q", "main")
    return "deep/.env is in its history"


def in_the_reflog(p: Project) -> str:
    tracked(p)
    p.git("reset", "-q", "--hard", "HEAD~")
    return "deep/.env is in its history"


def in_the_index(p: Project) -> str:
    p.write(".env", "SECRET=1")
    p.git("add", "-f", ".env")
    return ".env is in its history"


def stashed(p: Project) -> str:
    p.write(".env", "SECRET=1")
    p.git("stash", "-q", "-u")
    return ".env is in its history"


def added_and_taken_out(p: Project) -> str:
    in_the_index(p)
    p.git("reset", "-q")
    return "objects without a name"


def under_another_name(p: Project) -> str:
    p.write("settings.txt", "SECRET=1")
    p.commit("oops")
    (p.root / "settings.txt").unlink()
    p.commit("moved")
    p.write(".env", "SECRET=1")
    return "the content of .env is in its history"


def a_key_by_its_content(p: Project) -> str:
    p.write("server.pem", KEY)
    p.commit("oops")
    (p.root / "server.pem").unlink()
    return "server.pem is in its history"


def by_a_pattern_of_now(p: Project) -> str:
    p.write("customers.csv", "name\n")
    p.commit("data")
    p.write(".massgenignore", "*.csv\n")
    return "customers.csv is in its history"


def behind_a_replacement(p: Project) -> str:
    tracked(p)
    tree = p.git("rev-parse", "HEAD~^{tree}").strip()
    innocent = p.git("commit-tree", tree, "-p", "HEAD~", "-m", "innocent").strip()
    p.git("replace", "HEAD", innocent)
    (p.root / "deep/.env").unlink()
    return "deep/.env is in its history"


@pytest.mark.parametrize(
    "history",
    [
        tracked,
        removed,
        on_another_branch,
        in_the_reflog,
        in_the_index,
        stashed,
        added_and_taken_out,
        under_another_name,
        a_key_by_its_content,
        by_a_pattern_of_now,
        behind_a_replacement,
    ],
)
def test_a_withheld_file_is_readable_in_the_history(project: Project, history: Callable[[Project], str]) -> None:
    """Wherever git keeps it, the repository is replaced by a fresh one, and the reason names the file."""
    why = history(project)
    found = project.judged()
    assert found.view == "fresh"
    assert why in found.why


def test_what_the_user_brings_back_is_no_secret(project: Project) -> None:
    """`.massgeninclude` speaks for the history, too."""
    tracked(project)
    project.write(".massgeninclude", "deep/.env\n")
    assert project.judged() == Repository(view="clean")


def test_a_worktrees_repository_is_shown(project: Project) -> None:
    """Its `.git` is a file that points out of the context path: what is there is never mounted."""
    tree = project.root.parent / "tree"
    project.git("worktree", "add", "-q", str(tree))
    found = rules_for([ContextPath(path=tree)]).repository(tree)
    assert (found.view, "worktree" in found.why) == ("fresh", True)


@pytest.mark.parametrize("broken", ["no objects", "no head", "a bad object"])
def test_a_broken_repository_is_shown(project: Project, broken: str) -> None:
    """What git cannot read in full is hidden, with the reason."""
    match broken:
        case "no objects":
            (project.root / ".git/objects").rename(project.root / ".git/away")
        case "no head":
            (project.root / ".git/HEAD").unlink()
        case _:
            for blob in (project.root / ".git/objects").glob("??/*"):
                blob.chmod(0o600)
                blob.write_bytes(b"x")
    assert project.judged() == Repository(view="hide", why="git cannot read all of it")


def test_a_folder_without_a_repository_is_a_fault(tmp_path: Path) -> None:
    """Nothing to show, nothing to say; the same for a folder inside of a repository."""
    assert rules_for([ContextPath(path=tmp_path)]).repository(tmp_path) == Repository(view="hide")


def test_git_runs_what_a_repository_names(project: Project, tmp_path: Path) -> None:
    """Programs in the project's own config are not started on the host."""
    trap = tmp_path / "trap"
    (tmp_path / "program").write_text(f"#!/bin/sh\ntouch {trap}\n")
    (tmp_path / "program").chmod(0o755)
    for key in ("core.fsmonitor", "core.sshCommand", "core.pager", "core.alternateRefsCommand", "filter.x.clean", "gpg.program"):
        project.git("config", key, str(tmp_path / "program"))
    project.write(".gitattributes", "* filter=x\n")
    project.write(".env", "SECRET=1")
    project.judged()
    assert not trap.exists()
