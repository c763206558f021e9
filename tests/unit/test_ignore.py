"""What a snapshot leaves out: caches, what the base ignores (as git itself sees it), withheld names."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from massgen.config.model import ContextPath
from massgen.context.ignore import clean_environment, ignored_by_git
from massgen.context.rules import Rules, rules_for


@dataclass(frozen=True)
class Change:
    root: str
    path: str
    kind: str = "file"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A real repository with nested and negated rules, a tracked ignored file, and a submodule-like folder."""
    root = tmp_path / "repo"
    files = {
        ".gitignore": "build/\n*.log\n!keep.log\n/out\n",
        "src/.gitignore": "gen*\n!gen_keep.py\n",
        "src/a.py": "",
        "tracked.log": "",
        "inner/x": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "-q")
    git(root, "add", "-f", ".gitignore", "src", "tracked.log")
    git(root / "inner", "init", "-q")
    return root


def git(root: Path, *args: str) -> None:
    env = clean_environment({"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(root.parent)})
    subprocess.run(["git", "-C", str(root), *args], check=True, env=env, capture_output=True)


def rules(root: Path) -> Rules:
    return rules_for([ContextPath(path=root, permission="write")])


def kept(root: Path, *paths: str, kind: str = "file") -> list[str]:
    changes = [Change(str(root), p, kind) for p in paths]
    return [paths[i] for i in sorted(rules(root).keep(changes))]


def test_git_decides_in_a_repository(repo: Path):
    """Folders that do not exist yet, negations, nested files, and tracked files that match a rule."""
    paths = [
        "build/x.o",
        "a.log",
        "keep.log",
        "out",
        "deep/out",
        "src/gen1.py",
        "src/gen_keep.py",
        "src/a.py",
        "tracked.log",
        "dist/x",
    ]
    assert kept(repo, *paths) == ["keep.log", "deep/out", "src/gen_keep.py", "src/a.py", "tracked.log", "dist/x"]


def test_a_new_folder_is_judged_as_a_folder(repo: Path):
    """`build/` is a rule for folders only."""
    assert kept(repo, "build", kind="dir") == []
    assert kept(repo, "build", kind="file") == ["build"]


def test_one_path_that_git_cannot_judge_does_not_hide_the_others(repo: Path):
    """Git dies over a path in another repository or behind a link; the rest is still asked."""
    (repo / "link").symlink_to("src")
    assert kept(repo, "a.log", "inner/x", "link/b.py", "../odd", "b.log") == ["inner/x", "link/b.py", "../odd"]


def test_running_tests_in_a_draft_adds_nothing_to_the_answer(tmp_path: Path, repo: Path):
    """Also when the caches are in the project already and were merely rewritten."""
    plain = tmp_path / "plain"
    (plain / "__pycache__").mkdir(parents=True)
    (plain / "__pycache__/a.pyc").write_text("old")
    caches = [
        "__pycache__",
        "__pycache__/a.pyc",
        ".pytest_cache/v/cache/lastfailed",
        ".hypothesis/examples/1",
        ".coverage",
        "x.pyc",
    ]
    assert kept(plain, *caches, "a.py") == ["a.py"]
    assert kept(repo, *caches, "a.py") == ["a.py"]


def test_build_output_is_left_out_outside_git_only_when_it_is_new(tmp_path: Path):
    """A project may keep sources in `build`."""
    (tmp_path / "build").mkdir()
    assert kept(tmp_path, "build/make.py", "node_modules/x/index.js", "pkg.egg-info/PKG-INFO", "src/x.py") == [
        "build/make.py",
        "src/x.py",
    ]


def test_a_context_path_that_its_repository_ignores_still_has_answers(repo: Path):
    """`--write build` is the user's word; git would call everything in it ignored."""
    (repo / "build/site").mkdir(parents=True)
    assert kept(repo / "build/site", "index.html") == ["index.html"]


def test_a_withheld_name_that_an_agent_made_is_left_out_and_reported(tmp_path: Path):
    """An `.env` made by an agent never reaches the project, and nobody believes that it did."""
    (tmp_path / ".massgenignore").write_text("private/\n")
    (tmp_path / "server.pem").write_text("PRIVATE KEY")
    root = str(tmp_path)
    found = rules(tmp_path)
    names = [".env", "a/.ssh/config", "private/x", "a/.git/hooks/post-checkout", "server.pem", ".massgen/config.yaml", "ok.py"]
    keep = found.keep([Change(root, n) for n in names] + [Change(root, ".env.local", "gone")])
    assert [names[i] for i in keep] == ["ok.py"]
    assert set(found.left_out) == {f"{root}/{n}" for n in names[:-1]}
    assert found.judge([Change(root, "ok.py")]).left_out == ()


def test_the_workspace_keeps_everything_but_caches(tmp_path: Path):
    """It is the agent's own and never reaches a project."""
    changes = [Change("/workspace", p) for p in ("notes.md", "build/x", ".env", "__pycache__/x.pyc")]
    assert rules(tmp_path).keep(changes) == {0, 1, 2}


def test_a_repositorys_own_config_cannot_run_programs_on_the_host(repo: Path, tmp_path: Path):
    """Fsmonitor and hooks are programs named by a file that came with the project."""
    proof = tmp_path / "ran"
    program = tmp_path / "evil"
    program.write_text(f"#!/bin/sh\ntouch {proof}\n")
    program.chmod(0o755)
    for key in ("core.fsmonitor", "core.sshCommand", "core.pager", "core.editor"):
        git(repo, "config", key, str(program))
    git(repo, "config", "core.hooksPath", str(tmp_path))
    assert ignored_by_git(repo, ["a.log", "b.py"]) == {"a.log"}
    assert not proof.exists()


def test_without_git_nothing_is_ignored(repo: Path):
    """Showing one change too many is the safe side."""
    assert ignored_by_git(repo, ["a.log"], git="/nonexistent/git") == frozenset()
