"""A model file of the user's own works as a team: named on the command line, in one server, on a real project."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.team import FIX, project
from tests.support.tiny_model import call, tiny_model
from tests.support.user import User, events

pytestmark = [pytest.mark.docker, pytest.mark.slow]

REPLIES = {
    "work": call("shell", command=FIX),
    "answer": call("new_answer", content="flatten extends now; the tests pass."),
    "vote-agent1": call("vote", agent_id="agent1", reason="its tests pass"),
    "vote-agent2": call("vote", agent_id="agent2", reason="it is verified"),
    "done": "The bug in flatten is fixed, by a model of one megabyte.",
}
CHOOSE = (
    "{% set s = namespace(say='work') %}{% for m in messages %}"
    "{% if m.role == 'tool' and s.say == 'work' %}{% set s.say = 'answer' %}"
    "{% elif m.role == 'user' and 'This is the final turn' in m.content %}{% set s.say = 'done' %}"
    "{% elif m.role == 'user' and 'Answer agent1.' in m.content %}{% set s.say = 'vote-agent1' %}"
    "{% elif m.role == 'user' and 'Answer agent2.' in m.content %}{% set s.say = 'vote-agent2' %}"
    "{% endif %}{% endfor %}{{ s.say }}"
)


def test_two_agents_share_one_model_file_and_what_it_has_read(tmp_path: Path):
    """Tool loop, answer, vote, final turn, write; what the agents' prompts have in common is processed once, and shown so."""
    pytest.importorskip("xllamacpp")
    user = User(tmp_path / "home")
    place = project(user.cwd / "p")
    weights = tiny_model(user.cwd / "tiny.gguf", REPLIES, CHOOSE)
    task = ["Make the tests pass", "--models", "tiny.gguf", "tiny.gguf"]
    try:
        done = user.massgen(*task, "--write", "p", "--apply", "--verify", "python3 -m pytest -q", "--json")
        assert len(servers(weights)) == 1, "it lingers for the next run, and there was one for both agents"
    finally:
        for pid in servers(weights):
            os.kill(pid, signal.SIGKILL)
    assert done.returncode == 0, done.stderr
    assert "flat.extend(flatten" in (place / "listkit/__init__.py").read_text()
    log = events(done)
    assert {e["agent"] for e in log if e["type"] == "VoteCast"} == {"agent1", "agent2"}
    ran = [e for e in log if e["type"] == "ToolFinished"]
    assert any("4 passed" in e["text"] for e in ran)
    (folder,) = (user.cwd / ".massgen/massgen_logs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["answer"] == REPLIES["done"]
    first = {e["agent"]: e["usage"] for e in reversed([e for e in log if e["type"] == "ModelCalled"])}
    assert max(u["cached_tokens"] / u["input_tokens"] for u in first.values()) > 0.7, first
    rows = result["costs"]
    assert sum(row["cached_tokens"] for row in rows) > 0.5 * sum(row["input_tokens"] for row in rows)
    assert sum(row["cost_usd"] for row in rows) == 0


def servers(weights: Path) -> list[int]:
    """Processes that have this file in their memory."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            maps = (place / "maps").read_text()
        except OSError:
            continue
        if str(weights) in maps:
            found.append(int(place.name))
    return found
