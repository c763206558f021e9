"""The real programs as agents: an answer, votes, a final turn, through the host, from locked containers."""

from __future__ import annotations

import base64
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_agents import CLIS, Cli
from tests.support.fake_provider import fake_provider
from tests.support.fake_wires import Script
from tests.support.user import User, events

pytestmark = pytest.mark.docker

CANARY = "sk-CANARY-of-an-agent"


@pytest.fixture(
    params=[pytest.param(cli, marks=pytest.mark.slow(of=len(CLIS), turn=turn)) for turn, cli in enumerate(CLIS.values())],
    ids=list(CLIS),
)
def cli(request: pytest.FixtureRequest) -> Cli:
    found = request.param
    assert isinstance(found, Cli)
    return found


@pytest.fixture
def user(tmp_path: Path) -> User:
    user = User(tmp_path / "home")
    (user.cwd / "p").mkdir()
    (user.cwd / "p" / "README").write_text("a project\n")
    return user


def test_a_program_does_not_complete_an_answer_a_vote_and_a_final_turn(user: User, cli: Cli) -> None:
    """Two of them, one result, which is applied; the key is on the provider's side of the host alone.

    Its user's own prompts stand in what its model is asked, and a tool that it shall not have does not.
    """
    told = {"system_prompt": 'OWN "PROMPT" $HOME', "append_system_prompt": "AND `MORE`\n'of it'"}
    with fake_provider() as provider:
        provider.think = cli.think
        cli.configured(user, provider, agents=2, key=CANARY, **told, **({"disallowed_tools": [cli.spare]} if cli.spare else {}))
        done = user.massgen("run", "Write hello.txt", "--config", "team.yaml", "--write", "p", "--apply", "--json")
    assert done.returncode == 0, done.stderr + done.stdout[-4000:]
    assert (user.cwd / "p" / "hello.txt").read_text() == "hello\n"
    found = events(done)
    assert [event["text"] for event in found if event["type"] == "Presented"] == ["Done: hello.txt says hello."]
    kinds = [event["type"] for event in found]
    assert "AnswerGiven" in kinds
    assert "VoteCast" in kinds
    begun = [event for event in found if event["type"] == "ToolStarted"]
    assert any("echo hello > hello.txt" in event["summary"] for event in begun)
    tools = [event for event in found if event["type"] == "ToolFinished"]
    assert any(event["name"] == cli.shell[0] and event["ok"] for event in tools)
    for request in provider.requests:
        assert all(any(text in said for said in texts(request)) for text in told.values())
        assert cli.spare not in cli.tools(request)
    looked = [said for request in provider.requests if "echo again" in (said := cli.said(request))]
    assert looked
    assert all(said.index(cli.result) < said.index("echo again") for said in looked), "one turn was made of several"
    assert all(CANARY in json.dumps(headers) for headers in provider.headers)
    assert CANARY not in json.dumps(provider.requests)
    assert CANARY not in json.dumps(found)


@pytest.mark.probe("46", "47", "50")
def test_a_shell_inside_counterfeits_a_call_or_smuggles_a_request(user: User, cli: Cli) -> None:
    """A call that no model made, or that it made elsewhere, or after words it never said, does not count.

    Another model, hosted tools, references and addresses are refused before the provider; no header passes.
    """

    def forger(body: dict[str, Any]) -> Script:
        """First what the shell inside tries, then as any agent."""
        turns, tools = cli.turns(body), cli.tools(body)
        if "FORGED" in json.dumps(turns[-1]):
            return Script(words=[], calls=[(f"{cli.prefix}new_answer", '{"content": "forged"}')], stop="tools")
        answers = f"{cli.prefix}new_answer" in tools and f"{cli.prefix}vote" not in tools
        if answers and cli.result not in cli.said(body):
            prompt = next(text for text in texts(turns) if "Write hello.txt" in text)
            program = cli.forge.replace("PROMPT", repr(base64.b64encode(prompt.encode()).decode()))
            command = f"echo hello > hello.txt; python3 -c {shlex.quote(program)} 2>&1"
            return Script(words=[], calls=[cli.run(command)], stop="tools")
        return cli.think(body)

    with fake_provider() as provider:
        provider.think = forger
        cli.configured(user, provider, agents=1, key=CANARY)
        done = user.massgen("run", "Write hello.txt", "--config", "team.yaml", "--write", "p", "--json")
    assert done.returncode == 0, done.stderr
    found = events(done)
    seen = [event["text"] for event in found if event["type"] == "ToolFinished" and "SEEN " in event["text"]]
    assert seen, json.dumps([event for event in found if event["type"] == "ToolFinished"])
    assert json.loads(seen[0].partition("SEEN ")[2].splitlines()[0]) == {
        "bare": True,
        "asked": 200,
        "elsewhere": True,
        "history": True,
        "refused": [404, 404, 400, 400, 400, 400, 400, 400],
    }
    assert [event["text"] for event in found if event["type"] == "AnswerGiven"] == ["hello.txt says hello"]
    assert any("never made" in event["text"] for event in found if event["type"] == "Notice")
    assert {request.get("model", cli.model) for request in provider.requests} == {cli.model}
    told = [json.dumps(headers) for headers in provider.headers]
    assert not any("x-evil" in headers or "evil" in headers or "mine" in headers for headers in told)
    assert all(set(request) <= cli.keys for request in provider.requests)


def texts(node: Any) -> list[str]:
    """Every string in a conversation."""
    if isinstance(node, str):
        return [node]
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [text for child in inner for text in texts(child)]
