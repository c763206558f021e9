"""More at once than the machine has processors for: agents of one run, and runs on one project."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docker.engine_view import left_of
from tests.support.user import User, agent, events, say

pytestmark = pytest.mark.docker

MANY = 16


@pytest.mark.slow
def test_sixteen_agents_share_two_processors(tmp_path: Path):
    """Each gets its container, answers and votes; one wins, it alone writes, and nothing is left behind."""
    user = User(tmp_path / "home")
    user.write("project/code.txt", "old\n")
    vote = say(vote="agent1")
    for number in range(MANY):
        works = [say(shell=f"echo {number} > code.txt"), say(answer=f"the answer of {number}")]
        user.write(f"s{number}.yaml", [*works, *[vote] * 60, say(final="done")])
    user.write("team.yaml", {"agents": [agent(f"a{number}", f"s{number}.yaml") for number in range(MANY)]})
    done = user.massgen(
        "run", "Change it", "--config", "team.yaml", "--write", "project", "--apply", "--json", "--timeout", "10m", timeout_s=600
    )
    assert done.returncode == 0, done.stderr
    said = events(done)
    kinds = [row["type"] for row in said]
    assert kinds.count("AnswerGiven") == MANY
    assert [row["votes"] for row in said if row["type"] == "Selected"] == [{"agent1": MANY}]
    assert (user.cwd / "project/code.txt").read_text() == "0\n"
    assert left_of(said[0]["run_id"], user.home) == []


def test_two_runs_on_one_project_both_end_up_in_it(tmp_path: Path):
    """Two command lines at the same time, each with a file of its own and an edit of one file far from the other's."""
    user = User(tmp_path / "home")
    lines = [f"line {number}\n" for number in range(20)]
    user.write("project/code.txt", "".join(lines))
    running = []
    for name, number in (("one", 2), ("two", 17)):
        edit = f"echo {name} > {name}.txt; sed -i '{number}s/.*/{name}/' code.txt"
        user.write(f"{name}.yaml", [say(shell=edit), say(answer="done"), say(final="done")])
        user.write(f"team-{name}.yaml", {"agents": [agent(name, f"{name}.yaml")]})
        running.append(user.start("run", "Change it", "--config", f"team-{name}.yaml", "--write", "project", "--apply"))
    for run in running:
        _, error = run.communicate(timeout=120)
        assert run.returncode == 0, error
    found = (user.cwd / "project/code.txt").read_text().splitlines(keepends=True)
    assert found == [*lines[:1], "one\n", *lines[2:16], "two\n", *lines[17:]]
    assert sorted(path.name for path in (user.cwd / "project").glob("*.txt")) == ["code.txt", "one.txt", "two.txt"]
