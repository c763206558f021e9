"""From flags, files and environment to one Config: what wins, what is refused, and how it is said."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

from massgen.config.load import Flags, load
from massgen.config.model import CoordinationConfig, Secret
from massgen.config.resolved import resolved_yaml
from massgen.errors import ConfigError
from tests.support.config_world import ONE, World

THOUGHTLESS_SEARCH = """
agent:
  id: a
  backend: {type: openai, model: m, api_key: k, enable_web_search: true, reasoning: {effort: minimal}}
"""
SEARCH_TWICE = """
agent:
  id: a
  backend: {type: grok, model: m, api_key: k, enable_web_search: true, extra_body: {search_parameters: {}}}
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# -- typos and types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("agents:\n  - id: a\n    backend: {type: claude, modle: m}\n", [":3: agents[0].backend.modle", "did you mean `model`"]),
        ("agent:\n  id: a\n  backned: {}\n", ["team.yaml:3: agent.backned", "did you mean `backend`"]),
        ("orchestrater: {}\n" + ONE, ["team.yaml:1: orchestrater", "did you mean `orchestrator`"]),
        (ONE + "orchestrator: {enable_planning_mode: true, coordination: draft}\n", ["orchestrator.coordination", "contradicts"]),
        (
            "agent: {id: a, backend: {type: local}}\norchestrator: {enable_planning_mode: true}\n",
            [":2: orchestrator.enable_planning_mode", "`local`"],
        ),
        (ONE + "orchestrator: {consensus: 1.5}\n", ["orchestrator.consensus", "less than or equal to 1"]),
        (ONE + "orchestrator: {max_debates: -1}\n", ["orchestrator.max_debates", "greater than or equal to 0"]),
        (ONE + "orchestrator: {answer_novelty: harsh}\n", ["orchestrator.answer_novelty", "'balanced'"]),
        (ONE + "orchestrator: {coordination: readonly}\n", ["orchestrator.coordination", "'read_only'"]),
        ("agent: {id: a, backend: {type: local}}\norchestrator: {coordination: read_only}\n", [":2: orchestrator.c", "`local`"]),
        (ONE + "budget: {max_cost: 1}\n", ["team.yaml:4: budget.max_cost", "did you mean `max_cost_usd`"]),
        (ONE + "sandbox: {network: {allow: [x]}}\n", ["sandbox.network", "not supported by this version"]),
        (ONE + "verify: pytest\n", ["team.yaml:4: verify", "belongs below `orchestrator`"]),
        (ONE + "ui: {display_type: fancy}\n", ["ui.display_type", "'rich_terminal'"]),
        (ONE + "ui: {logging_enabled: 'yes'}\n", ["ui.logging_enabled", "boolean"]),
        (ONE + "orchestrator: {write: alway}\n", ["orchestrator.write", "'apply'"]),
        (ONE + "orchestrator: []\n", ["orchestrator", "mapping"]),
        (ONE + "timeout_settings: {orchestrator_timeout_seconds: 0}\n", ["orchestrator_timeout_seconds", "greater than 0"]),
        (ONE + "timeout_settings: {agent_timeout_seconds: .nan}\n", ["agent_timeout_seconds"]),
        (ONE + "sandbox: {require: [recursive_r]}\n", ["sandbox.require", "did you mean recursive_ro?"]),
        (ONE + "sandbox: {runtime: a b}\n", ["sandbox.runtime", "must be 1 to 63 letters"]),
        (ONE + "sandbox: {memory: lots}\n", ["team.yaml:4: sandbox.memory", "512m"]),
        (ONE + "sandbox: {memory: 1m}\n", ["sandbox.memory", "too little"]),
        (ONE + "sandbox: {memory: -1}\n", ["sandbox.memory", "out of range"]),
        (ONE + "sandbox: {draft: overlayfs}\n", ["sandbox.draft", "'auto', 'copy' or 'overlay'", "did you mean `overlay`"]),
        (ONE + "sandbox: {drafts: copy}\n", ["sandbox.drafts", "did you mean `draft`"]),
        ("agents:\n  - id: a\n", ["team.yaml:2: agents[0]", "needs the key `backend`"]),
        ("agents: []\n", ["agents"]),
        ("agents:\n  - {id: ../x, backend: {type: local}}\n", ["agents[0].id", "letters"]),
        ("agents:\n  - {id: 'a\\n', backend: {type: local}}\n", ["agents[0].id"]),
        ("agents:\n  - {id: a, backend: {type: local}}\n  - {id: a, backend: {type: local}}\n", [":3: agents[1].id", "line 2"]),
        ("agent: {id: a, backend: {type: local}}\n" + ONE, ["not both"]),
        ("agent: {id: a, backend: {type: ag2, model: g}}\n", ["ag2", "not in this version", "local, scripted"]),
        ("agent: {id: a, backend: {type: gemini, model: g}}\n", ["GEMINI_API_KEY"]),
        ("agent: {id: a, backend: {type: azure_openai, model: d, api_key: k}}\n", ["base_url"]),
        ("agent: {id: a, backend: {type: vllm, model: m, enable_web_search: true}}\n", ["not for the backend `vllm`", "grok"]),
        ("agent: {id: a, backend: {type: chatcompletion, model: m, base_url: groq}}\n", ["GROQ_API_KEY"]),
        (
            "agent: {id: a, backend: {type: chatcompletion, model: m, api_key: k, base_url: 'http://models.example.org/v1'}}\n",
            ["unencrypted", "https"],
        ),
        (
            THOUGHTLESS_SEARCH,
            ["cannot search the web"],
        ),
        (
            SEARCH_TWICE,
            ["twice"],
        ),
        ("agent: {id: a, backend: {type: chatcompletio, model: g}}\n", ["did you mean `chatcompletion`"]),
        ("agent: {id: a, backend: {type: scripted}}\n", ["needs the key `script`"]),
        ("agent: {id: a, backend: {type: scripted, script: no.yaml}}\n", ["backend.script", "does not exist"]),
        ("agent: {id: a, backend: {type: chatcompletion}}\n", ["needs the key `model`"]),
        ("agent: {id: a, backend: {type: local, base_url: 'http://x/'}}\n", ["base_url", "not for the backend `local`"]),
        ("agent: {id: a, backend: {type: claude, model: c}}\n", ["ANTHROPIC_API_KEY"]),
        ("agent: {id: a, backend: {type: chatcompletion, model: c, base_url: nonsense}}\n", ["base_url", "not a web address"]),
        ("agent: {id: a, backend: {type: chatcompletion, model: c, base_url: 'https://u:p@h/v1'}}\n", ["password"]),
        ("{}\n", ["needs `agent:` or `agents:`"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(world: World, text: str, parts: list[str]):
    """File, line, key, and what to do; the first fault in the file comes first."""
    found = world.refuse(text)
    assert all(part in found for part in parts), found


def test_nothing_configured_says_what_to_do_next(world: World):
    """A first user gets commands to type, not a missing-key error."""
    assert "massgen demo" in world.refuse()


# -- order of sources ---------------------------------------------------------------------------------------------


def test_the_first_config_that_exists_is_the_config(world: World):
    """--config, then the project's, then the user's own."""
    (world.home / ".config/massgen").mkdir(parents=True)
    (world.home / ".config/massgen/config.yaml").write_text("agent: {id: user, backend: {type: local}}\n")
    assert world.load().agents[0].id == "user"
    world.write("agent: {id: project, backend: {type: local}}\n", ".massgen/config.yaml")
    assert world.load().agents[0].id == "project"
    assert world.load("agent: {id: given, backend: {type: local}}\n").agents[0].id == "given"


def test_a_project_config_is_found_up_to_the_git_root_only(world: World):
    """A config above the repository belongs to somebody else."""
    world.write("agent: {id: project, backend: {type: local}}\n", ".massgen/config.yaml")
    deep = world.project / "a/b"
    deep.mkdir(parents=True)
    (world.project / ".git").mkdir()
    assert load(Flags(), world.env, cwd=deep).agents[0].id == "project"
    (world.project / "a/.git").mkdir()
    with pytest.raises(ConfigError):
        load(Flags(), world.env, cwd=deep)


def test_flags_win_over_environment_over_file(world: World):
    """For every value that has all three."""
    text = ONE + "sandbox: {image: file}\norchestrator: {verify: file}\ntimeout_settings: {orchestrator_timeout_seconds: 1}\n"
    world.env |= {"MASSGEN_IMAGE": "env", "MASSGEN_TIMEOUT": "2m", "MASSGEN_DISPLAY": "simple"}
    found = world.load(text, verify="flag")
    assert (found.sandbox.image, found.verify, found.timeouts.run_s, found.ui.display_type) == ("env", "flag", 120, "simple")
    assert world.load(text, image="flag", timeout="3").timeouts.run_s == 3


def test_quick_flags_replace_the_team(world: World):
    """--model with a config keeps the rest of the config."""
    found = world.load(ONE + "orchestrator: {verify: v}\n", model="local")
    assert [a.backend.type for a in found.agents] == ["local"]
    assert found.verify == "v"


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ({"model": "claude-x"}, "claude"),
        ({"model": "gpt-5"}, "openai"),
        ({"model": "gpt-oss-120b"}, "chatcompletion"),
        ({"model": "anything", "base_url": "http://localhost:9/v1/chat/completions"}, "chatcompletion"),
        ({"model": "local"}, "local"),
        ({"backend": "local"}, "local"),
    ],
)
def test_a_model_alone_picks_its_backend(world: World, flags: dict[str, str], kind: str):
    """By name or by URL; the URL may be the one that people copy."""
    world.env |= {"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"}
    backend = world.load(**flags).agents[0].backend
    assert backend.type == kind
    assert not backend.base_url or backend.base_url == "http://localhost:9/v1"


def test_defaults_for_all_agents_reach_them_but_not_past_their_own(world: World):
    """backend_params fill what a backend does not say."""
    text = (
        "agents:\n  - {id: a, backend: {type: local, temperature: 0.1}}\n  - {id: b, backend: {type: local}}\n"
        "backend_params: {temperature: 0.9, max_tokens: 5}\n"
    )
    found = world.load(text)
    assert [a.backend.temperature for a in found.agents] == [0.1, 0.9]
    assert [a.backend.max_tokens for a in found.agents] == [5, 5]
    assert [a.strategy for a in found.agents] == ["repair", "repair"]


def test_accepted_but_ignored_keys_are_said_once(world: World):
    """Never silently."""
    text = (
        "agents:\n"
        "  - {id: agent1, backend: {type: claude, model: c, api_key: k, temperature: 1.0, cwd: w1}}\n"
        "  - {id: b, backend: {type: claude, model: c, api_key: k, temperature: 1.0, cwd: w2}}\n"
        "orchestrator: {snapshot_storage: s, agent_temporary_workspace: t}\n"
    )
    found = world.load(text)
    assert all(a.backend.temperature is None for a in found.agents)
    for part in ("temperature", "cwd", "snapshot_storage", "agent_temporary_workspace", "looks like the anonymous labels"):
        assert sum(part in n for n in found.notices) == 1, part


# -- keys ----------------------------------------------------------------------------------------------------------


def test_a_key_shows_itself_to_nobody(world: World):
    """Not in str, repr, format, JSON, the config's repr, the resolved text, or a pickle."""
    world.env["K"] = "sk-canary-1"
    text = (
        "agent:\n  id: a\n  system_message: my key is ${K}\n"
        "  backend: {type: claude, model: c, api_key: '${K}', extra_body: {auth_token: other-canary, x: '${K}'}}\n"
    )
    found = world.load(text)
    key = found.agents[0].backend.api_key
    assert key is not None
    assert key.reveal() == "sk-canary-1"
    shown = f"{key} {key!r} {[key]}"
    assert "canary" not in shown + resolved_yaml(found)
    assert "sk-canary-1" not in repr(found.agents[0].backend.api_key)
    with pytest.raises(TypeError):
        json.dumps(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(TypeError):
        copy.deepcopy(key)
    assert Secret("x") == Secret("x") != Secret("y")


def test_an_error_never_quotes_a_key(world: World):
    """Also when the key is what is wrong."""
    world.env["K"] = "sk-canary-2"
    for text in (
        "agent: {id: a, backend: {type: claude, model: c, api_key: [x, '${K}']}}\n",
        "agent: {id: a, backend: {type: local, api_key: '${K}'}}\n",
    ):
        assert "canary" not in world.refuse(text)


def test_keys_come_from_the_environment_before_the_env_files(world: World):
    """./.env before the user's own; the environment before both."""
    (world.home / ".config/massgen").mkdir(parents=True)
    (world.home / ".config/massgen/.env").write_text("ANTHROPIC_API_KEY=user\n")
    assert world.load(model="claude-x").agents[0].backend.api_key == Secret("user")
    (world.project / ".env").write_text("export ANTHROPIC_API_KEY='project' # mine\nnonsense\n")
    assert world.load(model="claude-x").agents[0].backend.api_key == Secret("project")
    world.env["ANTHROPIC_API_KEY"] = "process"
    found = world.load(model="claude-x").agents[0].backend
    assert (found.api_key, found.key_source) == (Secret("process"), "ANTHROPIC_API_KEY")


def test_a_strangers_server_is_never_offered_the_openai_key(world: World):
    """Speaking the protocol is not being the provider."""
    world.env["OPENAI_API_KEY"] = "k"
    assert "MASSGEN_API_KEY" in world.refuse(model="m", base_url="https://models.example.org/v1")
    assert "GROQ_API_KEY" in world.refuse(model="m", base_url="https://api.groq.com/openai/v1")
    assert world.load(model="m", base_url="http://[::1]:8000/v1").agents[0].backend.api_key is None


# -- preparing an image -------------------------------------------------------------------------------------------


def test_a_prepare_file_that_is_not_what_it_seems_is_taken(world: World):
    """Named files only: relative to where the user stands, regular, and never through a link out of the project."""
    (world.home / "key").write_text("k")
    (world.project / "sub").mkdir()
    (world.project / "sub/needs.txt").write_text("x")
    (world.project / "link.txt").symlink_to(world.home / "key")
    (world.project / "inner.txt").symlink_to("sub/needs.txt")
    config = world.load(ONE + "sandbox: {prepare: [a, b], prepare_files: [sub/needs.txt, inner.txt, ../key]}\n").sandbox
    assert config.prepare == ("a", "b")
    assert [(f.name, f.path.relative_to(world.home).as_posix()) for f in config.prepare_files] == [
        ("sub/needs.txt", "project/sub/needs.txt"),
        ("inner.txt", "project/sub/needs.txt"),
        ("key", "key"),
    ]
    for given, part in (
        ("prepare: [a], prepare_files: [link.txt]", "leads out of"),
        ("prepare: [a], prepare_files: [sub]", "regular file"),
        ("prepare: [a], prepare_files: [gone.txt]", "team.yaml:4: sandbox.prepare_files[0]"),
        ("prepare: [a], prepare_files: [sub/needs.txt, ./sub/needs.txt]", "twice"),
        ("prepare_files: [sub/needs.txt]", "needs `sandbox.prepare`"),
        ("prepare: ['']", "at least 1 character"),
    ):
        assert part in world.refuse(ONE + f"sandbox: {{{given}}}\n")


# -- shipped configs ------------------------------------------------------------------------------------------------


def test_every_shipped_config_loads(root: Path, tmp_path: Path):
    """Examples are executed, so that they stay true; scripts too."""
    from massgen.models.scripted import ScriptedModel

    env = {"HOME": str(tmp_path), "ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k", "GROQ_API_KEY": "k"}
    shipped = sorted(
        [*root.glob("configs/*.yaml"), root / "massgen/demo_project/local.yaml", root / "massgen/demo_project/scripted.yaml"]
    )
    assert len(shipped) >= 6
    (tmp_path / "requirements.txt").touch()
    for path in shipped:
        config = load(Flags(config=str(path)), env, cwd=tmp_path)
        assert not config.notices, path
        assert resolved_yaml(config)
        for agent in config.agents:
            if agent.backend.script:
                ScriptedModel(agent.backend.script)


@pytest.mark.parametrize("name", ["@examples/scripted_team", "@examples/scripted_team.yaml", "scripted_team"])
def test_an_example_is_found_from_anywhere_by_its_name(name: str, root: Path, tmp_path: Path):
    """An installed package has no folder `configs` that a user could type; what is no example either names them all."""
    assert load(Flags(config=name), {"HOME": str(tmp_path)}, cwd=tmp_path).source == str(root / "configs/scripted_team.yaml")
    with pytest.raises(ConfigError, match="@examples/claude_single, "):
        load(Flags(config="@examples/../pyproject"), {"HOME": str(tmp_path)}, cwd=tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("agent: {id: mine, backend: {type: ollama, model: m}}\n")
    own = load(Flags(config=name), {"HOME": str(tmp_path)}, cwd=tmp_path)
    assert (own.agents[0].id == "mine") is not name.startswith("@")


def test_how_agents_agree_is_set_by_file_and_flags(world: World) -> None:
    """The keys of coordination arrive; a flag beats the file, zero included."""
    text = ONE + (
        "orchestrator: {consensus: 0.75, max_debates: 3, answer_novelty: strict, coordination: read_only,\n"
        "  max_new_answers_per_agent: 2, max_new_answers_global: 5}\n"
    )
    found = world.load(text).coordination
    assert (found.consensus, found.max_debates, found.answer_novelty, found.mode) == (0.75, 3, "strict", "read_only")
    assert (found.max_new_answers_per_agent, found.max_new_answers_global) == (2, 5)
    planning = world.load(ONE + "orchestrator: {enable_planning_mode: true, planning_mode_instruction: Sketch it}\n").coordination
    assert (planning.mode, planning.plan) == ("read_only", "Sketch it")
    assert world.load(ONE + "orchestrator: {planning_mode_instruction: Sketch it}\n").coordination.plan is None
    flagged = world.load(text, consensus=0.0, max_debates=0).coordination
    assert (flagged.consensus, flagged.max_debates) == (0.0, 0)
    assert world.load(ONE).coordination == CoordinationConfig()
