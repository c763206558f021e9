"""Which agents the command line means, and where each of their keys came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from massgen.config.backends import KEYS_AT, OTHER_HOST, providers
from massgen.config.load import Flags, load
from massgen.config.model import Config
from massgen.config.names import nearest
from massgen.errors import ConfigError


class World:
    """A home with a project in it, and an environment without anything of this machine."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.cwd = self.home / "project"
        self.own = self.home / ".config" / "massgen"
        self.cwd.mkdir(parents=True)
        self.own.mkdir(parents=True)
        self.env = {"HOME": str(self.home)}

    def load(self, *agents: dict[str, object], **flags: object) -> Config:
        if agents:
            team = [{"id": f"a{number}", "backend": backend} for number, backend in enumerate(agents)]
            (self.cwd / "team.yaml").write_text(json.dumps({"agents": team}))
            flags["config"] = "team.yaml"
        return load(Flags(**flags), self.env, cwd=self.cwd)  # type: ignore[arg-type]

    def refuse(self, *agents: dict[str, object], **flags: object) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(*agents, **flags)
        return str(caught.value)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_key_says_which_variable_of_which_file_it_is(world: World) -> None:
    """Also one that the config names as `${VARIABLE}`; one that stands in the config itself is `config`."""
    (world.own / ".env").write_text("GEMINI_API_KEY=one\nOPENAI_API_KEY=hidden\n")
    (world.cwd / ".env").write_text("ANTHROPIC_API_KEY=two\n")
    world.env |= {"OPENAI_API_KEY": "three", "MINE": "four"}
    found = world.load(
        {"type": "gemini", "model": "m"},
        {"type": "claude", "model": "m"},
        {"type": "openai", "model": "m"},
        {"type": "claude", "model": "m", "api_key": "${ANTHROPIC_API_KEY}"},
        {"type": "openai", "model": "m", "api_key": "${MINE}"},
        {"type": "openai", "model": "m", "api_key": "written there"},
    )
    assert [agent.backend.key_source for agent in found.agents] == [
        "GEMINI_API_KEY in ~/.config/massgen/.env",
        "ANTHROPIC_API_KEY in ./.env",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY in ./.env",
        "MINE",
        "config",
    ]


def test_a_missing_key_says_which_variable_and_where_to_put_it(world: World) -> None:
    """From a file and from flags."""
    for told in (world.refuse({"type": "gemini", "model": "m"}), world.refuse(model="gemini-2.5-pro")):
        assert "GEMINI_API_KEY" in told
        assert ".env" in told
        assert "https://aistudio.google.com/apikey" in told


def test_every_provider_says_where_its_keys_are_got(world: World) -> None:
    """A row or a preset that is added later, too."""
    assert providers().keys() - {OTHER_HOST} == KEYS_AT.keys()
    assert "get one at" not in world.refuse(model="m", base_url="https://models.example.org/v1")


def test_azure_is_found_without_a_file(world: World) -> None:
    """Its endpoint and version come from the environment for flags, too; without one that is said before anything starts."""
    world.env["AZURE_OPENAI_API_KEY"] = "k"
    assert "AZURE_OPENAI_ENDPOINT" in world.refuse(models=("azure_openai:dep",))
    world.env |= {"AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com", "AZURE_OPENAI_API_VERSION": "v2"}
    (backend,) = (agent.backend for agent in world.load(models=("azure_openai:dep",)).agents)
    assert (backend.base_url, backend.api_version, backend.model) == ("https://mine.openai.azure.com", "v2", "dep")


def test_a_key_in_the_clear_is_refused_unless_the_user_insists(world: World) -> None:
    """`allow_http` in a config that the user named sends it, and that is said; a config that was merely found cannot."""
    world.env["MASSGEN_API_KEY"] = "k"
    backend = {"type": "chatcompletion", "model": "m", "base_url": "http://models.example.org/v1"}
    told = world.refuse(backend)
    assert "unencrypted" in told
    assert "allow_http" in told
    found = world.load({**backend, "allow_http": True})
    assert found.agents[0].backend.api_key is not None
    assert any("unencrypted" in notice for notice in found.notices)
    assert world.load({**backend, "base_url": "http://127.0.0.1:1/v1"}).agents[0].backend.api_key is None
    (world.cwd / ".massgen").mkdir()
    (world.cwd / ".massgen" / "config.yaml").write_text(json.dumps({"agent": {"id": "a", "backend": backend}}))
    assert "may not set this" in world.refuse()


def test_an_unknown_model_is_told_its_nearest_names(world: World) -> None:
    """And which backend each of them means; a name that is like nothing is told the backends."""
    assert ("claude-sonnet-4-5", "claude") in nearest("claud-sonnet-4.5")
    told = world.refuse(model="claud-sonnet-4.5")
    assert "did you mean `claude-sonnet-4-5` (claude)" in told
    assert "chatcompletion" in world.refuse(model="zzzzzz")
    assert "did you mean" not in world.refuse(model="zzzzzz")


def test_agents_are_chosen_from_the_team_by_their_ids(world: World) -> None:
    """In the order in which they are named; one that is not there is told the nearest."""
    team = [{"type": "ollama", "model": f"m{number}"} for number in range(3)]
    assert [agent.id for agent in world.load(*team, agents=("a2", "a0")).agents] == ["a2", "a0"]
    told = world.refuse(*team, agents=("a0", "aa1"))
    assert "did you mean `a1`?" in told
    assert "it has a0, a1, a2" in told


def test_a_team_can_be_named_without_a_file(world: World) -> None:
    """Names of models, or backend and model; twice the same is two agents."""
    world.env |= {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    found = world.load(agents=("gpt-5", "claude-sonnet-4-5", "ollama:qwen3:8b", "gpt-5"), system_message="Be brief.")
    assert [(agent.id, agent.backend.type, agent.backend.model) for agent in found.agents] == [
        ("gpt-5", "openai", "gpt-5"),
        ("claude-sonnet-4-5", "claude", "claude-sonnet-4-5"),
        ("qwen3-8b", "ollama", "qwen3:8b"),
        ("gpt-5-2", "openai", "gpt-5"),
    ]
    assert {agent.system_message for agent in found.agents} == {"Be brief."}
    (alone,) = world.load(model="ollama:qwen3:8b").agents
    assert (alone.backend.type, alone.backend.model) == ("ollama", "qwen3:8b")
    assert "GEMINI_API_KEY" in world.refuse(agents=("gemini-2.5-pro",))


def test_models_named_on_the_command_line_are_the_team_whatever_the_config_says(world: World) -> None:
    """The rest of the config stays; ids differ, also where one name begins with another; a mistyped backend is told."""
    world.env |= {"OPENAI_API_KEY": "k"}
    found = world.load({"type": "ollama", "model": "m"}, models=("gpt-5-mini", "gpt-5", "gpt-5", "vllm:gpt-5"), verify="v")
    assert [(agent.id, agent.backend.type) for agent in found.agents] == [
        ("gpt-5-mini", "openai"),
        ("gpt-5", "openai"),
        ("gpt-5-2", "openai"),
        ("gpt-5-3", "vllm"),
    ]
    assert found.verify == "v"
    elsewhere = world.load(models=("a", "b:7b"), base_url="http://127.0.0.1:1/v1")
    assert [(agent.backend.model, agent.backend.base_url) for agent in elsewhere.agents] == [
        ("a", "http://127.0.0.1:1/v1"),
        ("b:7b", "http://127.0.0.1:1/v1"),
    ]
    assert "did you mean `claude-sonnet-4-5` (claude)" in world.refuse(models=("gpt-5", "claud-sonnet-4.5"))
    assert "did you mean `openai`?" in world.refuse(models=("opnai:gpt-5",))


def test_thinking_leaves_room_for_an_answer(world: World) -> None:
    """Claude counts both as output: the limit of a call, which budgets go by, holds both."""
    found = world.load(
        *(
            {"type": "claude", "model": "m", "api_key": "k", "max_thinking_tokens": 20_000, **more}
            for more in ({}, {"max_tokens": 9})
        )
    )
    assert [agent.backend.max_tokens for agent in found.agents] == [24_096, 24_096]


def test_a_model_file_is_named_by_its_path(world: World) -> None:
    """Relative to the config, with the tool loop; the pinned model keeps its workflow; what is neither is told what to do."""
    (world.cwd / "big.gguf").write_bytes(b"GGUF")
    found = world.load({"type": "local", "model": "big.gguf"}, {"type": "local"})
    assert [(agent.backend.weights, agent.strategy) for agent in found.agents] == [
        ((world.cwd / "big.gguf").resolve(), "loop"),
        (None, "repair"),
    ]
    assert "massgen models pull" in world.refuse({"type": "local", "model": "none.gguf"})
    assert "massgen models pull" in world.refuse({"type": "local", "model": "llama3"})
    (world.cwd / ".massgen").mkdir()
    outside = world.home / "other.gguf"
    outside.write_bytes(b"GGUF")
    config = {"agent": {"id": "a", "backend": {"type": "local", "model": str(outside)}}}
    (world.cwd / ".massgen" / "config.yaml").write_text(json.dumps(config))
    assert "outside the project" in world.refuse()
