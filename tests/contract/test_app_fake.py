"""`app.run` from a config to the project, over the fake engine with scripted models and the real agent loop."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest

from massgen import app
from massgen.config.model import AgentConfig, BackendConfig, Config, ContextPath, CoordinationConfig, Secret, Timeouts, WriteMode
from massgen.errors import ConfigError, SandboxFailed
from massgen.events.codec import Envelope
from massgen.events.replay import read
from massgen.events.types import (
    AgentExcluded,
    LeaseGranted,
    LookStarted,
    RunFinished,
    RunStarted,
    SandboxStarted,
    Selected,
    VoteCast,
)
from sandbox.engines.base import Link
from sandbox.plan import Plan
from sandbox.testing import FakeEngine
from tests.support.fake_provider import Script, fake_provider
from tests.support.scripted_run import contents

FIX = [
    {
        "when": {"phase": "coordination", "answers": 0},
        "calls": [
            {"name": "write_file", "args": {"path": "code.txt", "content": "fixed\n"}},
            {"name": "new_answer", "args": {"content": "I fixed it"}},
        ],
        "usage": {"input": 10, "output": 5},
    }
]
TOO = [{"when": {"phase": "coordination", "answers": 0}, "calls": [{"name": "new_answer", "args": {"content": "me too"}}]}]
OWN = {
    "when": {"phase": "coordination", "answers": 1},
    "calls": [{"name": "vote", "args": {"agent_id": "$own", "reason": "alone"}}],
}
VOTE = {
    "when": {"phase": "coordination", "answers": 2},
    "calls": [{"name": "vote", "args": {"agent_id": "agent1", "reason": "works"}}],
}
END = {"when": {"phase": "final"}, "text": "The bug is fixed."}


def agent(folder: Path, name: str, entries: list[dict[str, object]]) -> AgentConfig:
    """An agent whose model is a script."""
    script = folder / f"{name}.json"
    script.write_text(json.dumps(entries))
    return AgentConfig(id=name, backend=BackendConfig(type="scripted", model="scripted", script=script))


def config(folder: Path, project: Path, write: WriteMode, **more: object) -> Config:
    """Two agents: one fixes, the other only talks, both vote for the fix."""
    return Config(
        agents=(agent(folder, "alice", [*FIX, OWN, VOTE, VOTE, END]), agent(folder, "bob", [*TOO, OWN, VOTE, VOTE, END])),
        context_paths=(ContextPath(path=project, permission="write"),),
        write=write,
        **more,
    )


async def test_a_config_and_a_question_become_a_written_fix(tmp_path: Path, project: Path) -> None:
    """Two agents, real loop and body, scripted models: answer, votes, final turn, write, and a readable run."""
    seen: list[Envelope] = []
    engine = FakeEngine(tmp_path / "boxes")
    with anyio.fail_after(60):
        result = await app.run(
            config(tmp_path, project, "apply", verify="grep -q fixed code.txt"),
            "fix it",
            engine=engine,
            readers=[seen.append],
            state_dir=tmp_path / "state",
        )
    assert (result.outcome, result.exit_code, result.message) == ("applied", 0, "")
    assert (result.winner, result.answer, result.changes) == ("alice", "The bug is fixed.", ("code.txt",))
    assert result.usage.output_tokens >= 5
    assert contents(project)["code.txt"] == "fixed\n"
    assert list(read(result.run_dir / "events.jsonl")) == [envelope for envelope in seen if envelope.event.kept]
    assert [e.event.votes for e in seen if isinstance(e.event, Selected)] == [{"agent1": 2}]
    kinds = [type(e.event) for e in seen]
    assert kinds[0] is RunStarted
    assert kinds[-1] is RunFinished
    assert kinds.index(Selected) < kinds.index(LeaseGranted)
    assert engine.running == 0
    later = await app.undo_run(tmp_path / "state", result.run_id, engine=engine)
    assert later.files == (str(project / "code.txt"),)
    assert contents(project)["code.txt"] == "broken\n"


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/v1", "https://no-such-host.invalid/v1"], ids=["port", "name"])
async def test_an_address_where_nobody_is_holds_up_a_run(tmp_path: Path, url: str) -> None:
    """Such an agent is out after its first look, within seconds; alone it ends the run, with what to look at; others go on."""
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))  # nobody listens, and nobody else can
    url = url.format(port=closed.getsockname()[1])
    backend = BackendConfig(type="openai", model="gpt-5", base_url=url, api_key=Secret("none"))
    lost = AgentConfig(id="lost", backend=backend)
    other = agent(tmp_path, "other", [TOO[0], OWN, END])
    engine = FakeEngine(tmp_path / "boxes")
    for team, code in (((lost,), 3), ((lost, other), 0)):
        seen: list[Envelope] = []
        with anyio.fail_after(45):
            result = await app.run(
                Config(agents=team), "hi", engine=engine, readers=[seen.append], state_dir=tmp_path / f"state{code}"
            )
        assert result.exit_code == code
        (out,) = [e.event for e in seen if isinstance(e.event, AgentExcluded)]
        assert backend.base_url in out.why
        assert "check that it is up and that base_url is right" in out.why
        assert [e.event.agent for e in seen if isinstance(e.event, LookStarted)].count(out.agent) == 1
        if code:
            assert result.message == f"no agent produced an answer: {out.why}"
    closed.close()


async def test_a_time_limit_ends_a_run_that_never_would(tmp_path: Path, project: Path) -> None:
    """A deadline that has passed at the start: exit 124, a log with its one end, no container."""
    engine = FakeEngine(tmp_path / "boxes")
    setup = config(tmp_path, project, "apply", timeouts=Timeouts(run_s=0.0))
    result = await app.run(setup, "fix it", engine=engine, state_dir=tmp_path / "state")
    assert (result.outcome, result.exit_code) == ("timeout", 124)
    assert [type(e.event) for e in read(result.run_dir / "events.jsonl")][-1] is RunFinished
    assert engine.running == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_the_run_politely(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C or SIGTERM while a model thinks: the exit code says which, the log has its end, nothing runs on."""

    def reader(envelope: Envelope) -> None:
        if isinstance(envelope.event, LookStarted):
            os.kill(os.getpid(), number)

    silent = agent(tmp_path, "alice", [{"delay_s": 600, "text": "too late"}])
    engine = FakeEngine(tmp_path / "boxes")
    with anyio.fail_after(60):
        result = await app.run(Config(agents=(silent,)), "wait", engine=engine, readers=[reader], state_dir=tmp_path / "state")
    assert (result.outcome, result.exit_code) == ("stopped", code)
    end = [e.event for e in read(result.run_dir / "events.jsonl")][-1]
    assert isinstance(end, RunFinished)
    assert end.exit_code == code
    assert engine.running == 0


class Buggy(FakeEngine):
    """Has a bug."""

    async def start(self, plan: Plan) -> Link:
        """Of ours."""
        raise AssertionError(f"never thought of {plan.image}")


async def test_an_error_of_ours_still_ends_the_log(tmp_path: Path, project: Path) -> None:
    """A bug in mid-run goes on to the caller, but the log says that and how the run ended."""
    with pytest.raises(AssertionError, match="never thought of"):
        await app.run(config(tmp_path, project, "apply"), "x", engine=Buggy(tmp_path / "b"), state_dir=tmp_path / "state")
    (log,) = (tmp_path / "state" / "runs").glob("*/events.jsonl")
    end = [e.event for e in read(log)][-1]
    assert isinstance(end, RunFinished)
    assert end.outcome == "crashed"


async def test_a_missing_image_stops_before_anything_is_made(tmp_path: Path, project: Path) -> None:
    """SandboxFailed (125), and not even a run folder."""
    setup = config(tmp_path, project, "apply")
    engine = FakeEngine(tmp_path / "boxes", missing=[setup.sandbox.image])
    with pytest.raises(SandboxFailed, match="image"):
        await app.run(setup, "fix it", engine=engine, state_dir=tmp_path / "state")
    assert not (tmp_path / "state" / "runs").exists()


async def test_agents_whose_scripts_are_empty_give_no_answer(tmp_path: Path, project: Path) -> None:
    """Exit 3, said in the terminal event; never 0 when no model completed."""
    nobody = Config(agents=(agent(tmp_path, "alice", []), agent(tmp_path, "bob", [])), write="never")
    result = await app.run(nobody, "hello?", engine=FakeEngine(tmp_path / "boxes"), state_dir=tmp_path / "state")
    assert (result.outcome, result.exit_code) == ("no answer", 3)
    with pytest.raises(ConfigError, match="no result"):
        app.diff_run(tmp_path / "state", result.run_id)
    assert contents(project)["code.txt"] == "broken\n"


async def test_a_question_without_a_project_needs_none(tmp_path: Path) -> None:
    """One agent, no context path: its answer is the result, and no lease exists."""
    entries = [{"when": {"phase": "coordination"}, "calls": [{"name": "new_answer", "args": {"content": "42"}}]}, END]
    seen: list[Envelope] = []
    result = await app.run(
        Config(agents=(agent(tmp_path, "alice", entries),)),
        "what is it?",
        engine=FakeEngine(tmp_path / "boxes"),
        readers=[seen.append],
        state_dir=tmp_path / "state",
    )
    assert (result.outcome, result.exit_code, result.answer) == ("answered", 0, "The bug is fixed.")
    roles = [e.event.role for e in seen if isinstance(e.event, SandboxStarted)]
    assert roles == ["agent", "final"]
    assert not any(isinstance(e.event, VoteCast | LeaseGranted) for e in seen)


async def test_a_plan_is_asked_for_until_the_vote_and_carried_out_after_it(tmp_path: Path, project: Path) -> None:
    """Planning mode: each request of coordination has its instruction, none of the final turn; until then all is read-only."""
    asked: list[tuple[bool, str]] = []
    replies = [
        ("read_file", {"path": "code.txt"}),
        ("new_answer", {"content": "code.txt should say fixed"}),
        ("write_file", {"path": "code.txt", "content": "fixed\n"}),
    ]

    def think(body: dict[str, Any]) -> Script:
        asked.append(("This is the final turn" not in str(body["messages"]), str(body["messages"])))
        if not replies:
            return Script(words=["Done."])
        name, args = replies.pop(0)
        return Script(words=[], calls=[(name, json.dumps(args))], stop="tools")

    seen: list[Envelope] = []
    with fake_provider() as provider, anyio.fail_after(60):
        provider.think = think
        backend = BackendConfig(type="chatcompletion", model="m", base_url=f"{provider.url}/v1")
        setup = Config(
            agents=(AgentConfig(id="alice", backend=backend, system_message="Be brief."),),
            context_paths=(ContextPath(path=project, permission="write"),),
            coordination=CoordinationConfig(mode="read_only", plan="Sketch the change."),
            write="apply",
        )
        engine = FakeEngine(tmp_path / "boxes")
        result = await app.run(setup, "fix it", engine=engine, readers=[seen.append], state_dir=tmp_path / "state")
    assert (result.outcome, result.changes, contents(project)["code.txt"]) == ("applied", ("code.txt",), "fixed\n")
    assert [coordination for coordination, _ in asked] == [True, True, False, False]
    assert [("Sketch the change." in text, "Planning mode" in text) for _, text in asked] == [(c, c) for c, _ in asked]
    assert all("Be brief." in text for _, text in asked)
    modes = {e.event.role: [m["mode"] for m in e.event.mounts] for e in seen if isinstance(e.event, SandboxStarted)}
    assert modes == {"agent": ["ro"], "final": ["draft"], "lease": ["write"]}
