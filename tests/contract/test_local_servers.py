"""Servers that people run themselves: LM Studio through its command (a stand-in, see lms_standin.py), and each preset's wire."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from massgen.agent.metered import metered
from massgen.config.load import Flags, load
from massgen.config.model import BudgetConfig
from massgen.errors import ConfigError, ModelUnavailable
from massgen.messages import Message, Request, ToolSpec
from massgen.models.lmstudio import find_lms, served
from massgen.models.team import open_models
from tests.support.fake_provider import FakeProvider
from tests.support.fake_wires import ONE_CALL

URL = "http://127.0.0.1:1234/v1"


class Lms:
    """The stand-in, installed where the real one is."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.state = home / "lms.json"
        place = home / ".lmstudio" / "bin" / "lms"
        place.parent.mkdir(parents=True)
        script = Path(__file__).resolve().parents[1] / "support" / "lms_standin.py"
        place.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
        place.chmod(0o755)
        monkeypatch.setenv("LMS_STATE", str(self.state))
        self.program = find_lms({"HOME": str(home), "PATH": "/nonexistent"})

    def set(self, **values: Any) -> None:
        self.state.write_text(json.dumps(values))

    def get(self, key: str) -> Any:
        return json.loads(self.state.read_text())[key]


@pytest.fixture
def lms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lms:
    return Lms(tmp_path, monkeypatch)


def running(lms: Lms) -> tuple[bool, list[str]]:
    return lms.get("running"), lms.get("loaded")


async def test_server_and_model_are_there_for_a_run_and_gone_after_it(lms: Lms) -> None:
    """Started on the port of the address and loaded; unloaded and stopped, also when the run fails."""
    async with served("qwen3-8b", "http://127.0.0.1:4321/v1", lms.program):
        assert running(lms) == (True, ["qwen3-8b"])
        assert "server start --port 4321" in lms.get("asked")
    assert running(lms) == (False, [])
    with pytest.raises(RuntimeError, match="ours"):
        async with served("qwen3-8b", URL, lms.program):
            raise RuntimeError("ours")
    assert running(lms) == (False, [])


async def test_what_the_user_had_running_stays(lms: Lms) -> None:
    """A server that ran goes on, a model that was loaded stays loaded: nothing is started, nothing ended."""
    lms.set(running=True, loaded=["qwen3-8b"])
    async with served("qwen3-8b", URL, lms.program):
        pass
    assert running(lms) == (True, ["qwen3-8b"])
    changing = ("load", "unload", "server start", "server stop")
    assert not [words for words in lms.get("asked") if words.startswith(changing)]
    lms.set(running=True, models=["qwen3-8b", "other"], loaded=["other"])
    async with served("qwen3-8b", URL, lms.program):
        assert running(lms) == (True, ["other", "qwen3-8b"])
    assert running(lms) == (True, ["other"])


async def test_what_lm_studio_says_no_to_is_told(lms: Lms) -> None:
    """A model that it lacks with those that it has, a server that does not start, a model that does not fit."""
    with pytest.raises(ConfigError, match=r"no model 'other' \(it has qwen3-8b\).*lms get other"):
        async with served("other", URL, lms.program):
            pass
    assert running(lms) == (False, []), "the server that was started for nothing is stopped"
    lms.set(fail="start")
    with pytest.raises(ModelUnavailable, match="port is taken"):
        async with served("qwen3-8b", URL, lms.program):
            pass
    lms.set(fail="load")
    with pytest.raises(ModelUnavailable, match="not enough memory"):
        async with served("qwen3-8b", URL, lms.program):
            pass


async def test_without_the_command_or_on_another_machine_nothing_is_tried(lms: Lms, tmp_path: Path) -> None:
    """Whoever runs the server by hand needs no command."""
    assert find_lms({"HOME": str(tmp_path / "nobody"), "PATH": "/nonexistent"}) is None
    async with served("qwen3-8b", URL, None), served("qwen3-8b", "http://10.0.0.7:1234/v1", lms.program):
        assert not lms.state.exists()


@pytest.mark.parametrize("kind", ["lmstudio", "vllm", "sglang", "ollama"])
async def test_a_preset_speaks_its_servers_wire_without_a_key(
    kind: str, lms: Lms, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chat Completions with streamed counts and calls, no authorization header, cost zero, also under a cap on cost."""
    monkeypatch.setenv("HOME", str(lms.home))
    (lms.home / "team.yaml").write_text(
        json.dumps({"agent": {"id": "a", "backend": {"type": kind, "model": "qwen3-8b", "base_url": f"{provider.url}/v1"}}})
    )
    config = load(Flags(config="team.yaml", max_cost_usd=0.01), {"HOME": str(lms.home)}, cwd=lms.home)
    provider.mode = "call"
    shell = ToolSpec(name="shell", description="Run.", parameters={"type": "object", "properties": {}})
    async with AsyncExitStack() as stack:
        models = metered(await open_models(config.agents, stack), config, lambda: None)
        reply = await models["a"].complete(Request(messages=(Message(role="user", text="ls"),), tools=(shell,)))
    assert [(call.name, json.dumps(dict(call.args))) for call in reply.calls] == ONE_CALL
    assert (reply.cost_usd, reply.usage.input_tokens) == (0.0, 120)
    assert provider.paths == ["/v1/chat/completions"]
    assert "authorization" not in provider.headers[0]
    assert provider.requests[0]["stream_options"] == {"include_usage": True}
    assert lms.state.exists() is (kind == "lmstudio")
    assert config.budget != BudgetConfig()
