"""What the README and the page on the sandbox show is run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from massgen.config.load import Flags, load
from tests.support.user import ROOT, User


def blocks(root: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)


@pytest.mark.docker
def test_the_python_example_does_not_run(root: Path, tmp_path: Path):
    """Copied into a file, it prints what it says."""
    (example,) = blocks(root, "python")
    (tmp_path / "example.py").write_text(example)
    env = User(tmp_path / "home").env
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["exited", "0", "42"]), done.stderr


SHOWN = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / "docs/sandbox.md").read_text(), re.DOTALL)


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize(("example", "printed"), SHOWN, ids=range(len(SHOWN)))
def test_an_example_of_the_sandbox_prints_something_else(tmp_path: Path, example: str, printed: str):
    """Each is whole, runs in an empty folder, and prints what stands below it."""
    (tmp_path / "example.py").write_text(example)
    env = User(tmp_path / "home").env
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (printed, 0), done.stderr


def test_an_example_of_the_sandbox_is_not_run():
    """Whoever adds one adds what it prints."""
    assert len(SHOWN) == (ROOT / "docs/sandbox.md").read_text().count("```python")


def test_the_team_example_does_not_load(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Copied into a file beside a project, it is the team that the text describes."""
    team, *parts = blocks(root, "yaml")
    for folder in ("src", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "team.yaml").write_text(team + "".join(parts))
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "a-key-of-the-test")
    monkeypatch.chdir(tmp_path)
    config = load(Flags(config="team.yaml"))
    assert [agent.id for agent in config.agents] == ["fast", "careful"]
    assert {path.path.name: path.permission for path in config.context_paths} == {"src": "write", "docs": "read"}
    assert (config.write, config.verify) == ("review", "python3 -m pytest -q")


def test_a_command_in_the_readme_does_not_exist(root: Path):
    """Every `massgen` command and option that is shown is one that `--help` knows."""
    shown = set(re.findall(r"massgen ([a-z]+)\b", " ".join(re.findall(r"[`$] ?[^`\n]*", (root / "README.md").read_text()))))
    text = subprocess.run(
        [sys.executable, "-m", "massgen", "--help"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    known = set(re.findall(r"^  ([a-z]+) ", text, re.MULTILINE))
    assert shown - {"run"} <= known
    assert "run" in known
