"""One run, twice: an ordinary user's with overlay drafts, root's with copies. What comes of it is the same, byte for byte."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.gitmask import ONE_COMMIT
from sandbox.overlay import HOME, PREFIX
from tests.support.account import a_python, as_user, environment
from tests.support.boxes import picture
from tests.support.user import agent, say

pytestmark = pytest.mark.docker

SECRET = "SECRET=canary-of-the-user"
WORK = r"""
set -e
test ! -e .env; test ! -e build/keep.o -o -e build/keep.o
printf 'def double(x):\n    return 2 * x\n' > code.py
printf '\0\1\377' > blob; chmod 755 tool; rm gone.txt; rm -r old; mkdir -p new/deep; echo x > new/deep/file
mv moved.txt renamed.txt; ln -s ../code.py new/link; rm swap; mkdir swap; echo in > swap/in
printf 'tail' >> 'na me.txt'; echo SECRET=stolen > .env; mkdir -p build; echo o > build/new.o; echo hi > /workspace/note
python3 -m pytest -q
"""
CHANGES = r"""
set -e
echo changed > code.py; rm tool; mkdir made; echo x > made/file; chmod 755 made/file; printf '\0' >> blob
ln -s code.py to; echo > build/x
echo SECRET=stolen > .env
"""
WAIT = "for n in $(seq 600); do test -d /peers/agent1.1 && break; sleep 0.1; done; sleep 0.5"
TEST = "from code_under_test import double\n\n\ndef test_double():\n    assert double(4) == 8\n"
FILES = {
    "code.py": "def double(x):\n    return x\n",
    "code_under_test.py": "import importlib.util\nspec = importlib.util.spec_from_file_location('c', 'code.py')\n"
    "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\ndouble = module.double\n",
    "test_code.py": TEST,
    "gone.txt": "gone\n",
    "old/a": "a\n",
    "old/b/c": "c\n",
    "moved.txt": "moved\n",
    "na me.txt": "name\n",
    "swap": "a file\n",
    "tool": "#!/bin/sh\n",
    ".gitignore": "build/\n.env\n",
}


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody at a prompt with a project of their own."""

    home: Path
    run: Callable[..., subprocess.CompletedProcess[str]]

    @property
    def project(self) -> Path:
        return self.home / "project"

    def massgen(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "massgen", *words)


@pytest.fixture(scope="module")
def people(installed: Path, account: pwd.struct_passwd) -> dict[str, Person]:
    """A user and root, each with a home, the same project and the same team."""
    found: dict[str, Person] = {}
    for name, uid in (("user", account.pw_uid), ("root", 0)):
        home = installed / f"{name}-home"
        (home / "project").mkdir(parents=True)
        for path, text in FILES.items():
            (home / "project" / path).parent.mkdir(parents=True, exist_ok=True)
            (home / "project" / path).write_text(text)
        git(home / "project", "init", "-q")
        git(home / "project", "add", "-A")
        git(home / "project", "commit", "-qm", "first")
        (home / "project/.env").write_text(SECRET)
        (home / "project/build").mkdir()
        (home / "project/build/keep.o").write_text("o")
        team(home)
        for place in (home, *home.rglob("*")):
            os.chown(place, uid, uid, follow_symlinks=False)
        found[name] = Person(home=home, run=runner(home, account if uid else None))
    return found


def runner(home: Path, account: pwd.struct_passwd | None) -> Callable[..., subprocess.CompletedProcess[str]]:
    if account is not None:
        python = a_python(account, home)
        return lambda *words: as_user(account, home, python, *words)
    argv, env = [sys.executable], environment(home)
    return lambda *words: subprocess.run(
        [*argv, *words], cwd=home, env=env, capture_output=True, text=True, timeout=240, check=False
    )


def git(project: Path, *words: str) -> None:
    identity = ("-c", "user.name=u", "-c", "user.email=u@example.org")
    date = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}
    subprocess.run(["git", "-C", str(project), *identity, *words], check=True, capture_output=True, env=os.environ | date)


def team(home: Path) -> None:
    """One who works and one who waits for what is handed in, reads it, and votes."""
    first = [say(shell=WORK), say(answer="doubled"), *[say(vote="$own")] * 4, say(final="It doubles.")]
    look = say(shell="cat /peers/agent1.1/files$PWD/code.py /peers/agent1.1/changes.patch")
    look["when"]["answers"] = ">=1"
    second = [say(shell=f"git log --format=%s && git diff --quiet && ls -A; {WAIT}"), look, *[say(vote="agent1")] * 4]
    for name, script in (("first", first), ("second", second)):
        (home / f"{name}.yaml").write_text(json.dumps(script))
    config = {
        "agents": [agent("first", "first.yaml"), agent("second", "second.yaml")],
        "orchestrator": {"context_paths": [{"path": "project", "permission": "write"}], "verify": "python3 -m pytest -q"},
        "sandbox": {"memory": "512m", "cpus": 1, "disk": "64m"},
    }
    (home / "team.yaml").write_text(json.dumps(config))


def result(person: Person) -> dict[str, Any]:
    """A run in review, its diff, apply, undo, apply: everything that a user sees of it, with the home taken out."""
    before = picture(person.project)
    run = person.massgen("run", "Make it double", "--config", "team.yaml", "--write-mode", "review", "--json", "--no-logs")
    assert run.returncode == 0, run.stderr + run.stdout[-2000:]
    log = [json.loads(line) for line in run.stdout.splitlines()]
    assert picture(person.project) == before
    seen: dict[str, Any] = {"diff": person.massgen("diff").stdout, "before": before}
    for word in ("apply", "undo", "apply"):
        done = person.massgen(word, *(["--yes"] if word == "apply" else []))
        assert done.returncode == 0, done.stderr
        seen[f"after {word} {len(seen)}"] = picture(person.project)
    owners = {place.lstat().st_uid for place in person.project.rglob("*")}
    assert owners == {person.project.stat().st_uid}
    told = ("AnswerGiven", "Verified", "VoteCast", "Selected", "Presented")
    left_out = ("ts", "seq", "seconds", "run_id", "snapshot")
    facts = [{k: v for k, v in e.items() if k not in left_out} for e in log if e["type"] in told]
    seen["facts"] = sorted(facts, key=lambda fact: (fact["type"], fact.get("agent", ""), fact.get("answer", "")))
    seen["peers"] = [e["text"] for e in log if e["type"] == "ToolFinished" and "return 2 * x" in e["text"]]
    mounts = [m for e in log if e["type"] == "SandboxStarted" for m in e["mounts"] if m["path"] == str(person.project)]
    kinds = {(m["draft"], m["git"]) for m in mounts}
    history = "first" if kinds == {("overlay", "clean")} else ONE_COMMIT
    assert [e["text"] for e in log if e["type"] == "ToolFinished" and f"{history}\n.git\n" in e["text"]]
    text = re.sub(r"in \d+\.\d+s", "in no time", json.dumps(seen).replace(str(person.home), "HOME"))
    return {**json.loads(text), "kinds": kinds, "row": log[0]["context"][0], "log": json.dumps(log)}


def test_a_result_depends_on_how_drafts_are_made(people: dict[str, Person]) -> None:
    """Answers, verdicts, votes, diff, and the project after apply, undo and apply are equal; only the kind of draft is not."""
    user, root = result(people["user"]), result(people["root"])
    assert (user.pop("kinds"), root.pop("kinds")) == ({("overlay", "clean")}, {("copy", "fresh")})
    rows = user.pop("row"), root.pop("row")
    assert [(r["draft"], r["git"]) for r in rows] == [("overlay", "clean"), ("copy", "fresh")]
    for log in (user.pop("log"), root.pop("log")):
        assert SECRET not in log
    for seen in (user, root):
        for moment in [key for key in seen if key == "before" or key.startswith("after")]:
            assert seen[moment][".git/index"] == seen["before"][".git/index"]
            if moment != "before":
                del seen[moment][".git/index"]  # holds times and inodes
        del seen["before"][".git/index"]
    assert user == root
    assert user["after undo 3"] == user["before"]
    assert [e["ok"] for e in user["facts"] if e["type"] == "Verified"] == [True, False, True]
    assert user["after apply 4"]["new/link"] == ["link", 0, "../code.py"]
    assert "build/new.o" not in user["after apply 4"]
    assert user["after apply 4"][".env"][2] == SECRET


def test_one_command_depends_on_how_its_draft_is_made(people: dict[str, Person]) -> None:
    """`massgen exec` changes the same and leaves the same; an overlay has the project's history, a copy one commit."""
    patches: dict[str, bytes] = {}
    for name, person in people.items():
        before, project, kept = picture(person.project), str(person.project), person.home / "kept.patch"
        asked = ("--json", "--keep-changes", str(kept), "--write", project, "--workdir", project)
        done = person.massgen("exec", *asked, "--", "sh", "-c", f"git status >/dev/null; git log --oneline; {CHANGES}")
        assert done.returncode == 0, done.stderr + done.stdout
        told = json.loads(done.stdout)
        assert told["mounts"] == [
            {"path": project, "mode": "draft", "draft": "overlay", "git": "clean"}
            if name == "user"
            else {"path": project, "mode": "draft", "draft": "copy", "git": "fresh"}
        ]
        assert told["stdout"].count("\n") == 1
        assert told["stdout"].endswith(" first\n" if name == "user" else " is not shown\n")
        assert picture(person.project) == before
        patches[name] = kept.read_bytes()
    assert patches["user"] == patches["root"]
    assert b"+changed" in patches["user"]


def test_layers_of_a_users_run_stay_behind(people: dict[str, Person]) -> None:
    """Neither masks nor uppers of the runs above are left; no container either, or they could not be."""
    uid = people["user"].home.stat().st_uid
    assert not [p for p in HOME.glob(f"{PREFIX}*") if p.stat().st_uid == uid]


@pytest.mark.parametrize("word", ["overlay", "copy"])
def test_a_kind_that_was_demanded_is_another(people: dict[str, Person], word: str) -> None:
    """`draft: copy` copies an ordinary user's project; `draft: overlay` refuses root's, and starts nothing."""
    person = people["user" if word == "copy" else "root"]
    config = json.loads((person.home / "team.yaml").read_text())
    (person.home / "one.yaml").write_text(json.dumps([say(answer="done"), *[say(vote="$own")] * 4, say(final="done")]))
    config |= {"agents": [agent("one", "one.yaml")]}
    config["sandbox"]["draft"] = word
    del config["orchestrator"]["verify"]
    (person.home / "kind.yaml").write_text(json.dumps(config))
    done = person.massgen("run", "q", "--config", "kind.yaml", "--write-mode", "review", "--json", "--no-logs")
    if word == "copy":
        assert json.loads(done.stdout.splitlines()[0])["context"][0]["draft"] == "copy"
        assert done.returncode == 0
    else:
        assert (done.returncode, done.stdout) == (125, "")
        assert "belongs to uid 0" in done.stderr
        assert "use `draft: copy` or `auto`" in done.stderr
