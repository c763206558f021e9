"""What a config says of how a CLI agent is to work reaches the program, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from massgen.agent.programs import PROGRAMS, Start
from massgen.config.load import Flags, load
from massgen.config.model import Config, ProgramConfig
from massgen.config.resolved import resolved_yaml
from massgen.errors import ConfigError

SHELL = {"claude": "Bash", "gemini": "run_shell_command"}


def started(name: str, **settings: object) -> Start:
    return PROGRAMS[name].start(address="http://127.0.0.1:1", model="m", settings=ProgramConfig(**settings))  # type: ignore[arg-type]


def after(words: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """What follows a flag, up to the next one."""
    rest = words[words.index(flag) + 1 :]
    return rest[: next((number for number, word in enumerate(rest) if word.startswith("--")), len(rest))]


def gemini_settings(start: Start) -> dict[str, object]:
    found = json.loads(start.env["MASSGEN_FILE_0"])
    assert isinstance(found, dict)
    return found


def configured(tmp_path: Path, backend: str, **more: object) -> Config:
    for name in ("claude", "codex", "node"):
        program = tmp_path / name
        program.write_bytes(b"\x7fELF")
        program.chmod(0o755)
    script = tmp_path / "pack" / "bundle" / "gemini.js"
    script.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "pack" / "package.json").write_text("{}")
    script.touch(mode=0o755)
    (tmp_path / "gemini").exists() or (tmp_path / "gemini").symlink_to(script)
    file = tmp_path / "team.yaml"
    file.write_text(json.dumps({"agent": {"id": "a", "backend": {"type": backend, "model": "m", "api_key": "k", **more}}}))
    return load(Flags(config=str(file)), {"HOME": str(tmp_path), "PATH": str(tmp_path)}, cwd=tmp_path)


def test_a_setting_is_lost_between_the_config_and_the_program(tmp_path: Path) -> None:
    """What was written is what the agent has, and what the resolved config shows."""
    settings = {
        "system_prompt": "own",
        "append_system_prompt": "more",
        "permission_mode": "acceptEdits",
        "allowed_tools": ["Bash(git *)", "Read"],
        "disallowed_tools": ["Read(.env)", "WebFetch"],
    }
    config = configured(tmp_path, "claude_code", **settings)
    assert config.agents[0].backend.settings == ProgramConfig(
        system_prompt="own",
        append_system_prompt="more",
        permission_mode="acceptEdits",
        allowed_tools=("Bash(git *)", "Read"),
        disallowed_tools=("Read(.env)", "WebFetch"),
    )
    assert all(key in resolved_yaml(config) for key in settings)
    assert configured(tmp_path, "claude_code").agents[0].backend.settings == ProgramConfig()
    assert configured(tmp_path, "gemini_cli", allowed_tools=[]).agents[0].backend.settings.allowed_tools == ()


@pytest.mark.parametrize(
    ("backend", "key", "value", "said"),
    [
        ("codex", "permission_mode", "bypassPermissions", "not for the backend `codex` (only claude_code, gemini_cli)"),
        ("codex", "allowed_tools", ["exec_command"], "not for the backend `codex`"),
        ("claude", "append_system_prompt", "x", "not for the backend `claude` (only claude_code, codex, gemini_cli)"),
        ("claude_code", "permission_mode", "yolo", "must be one of bypassPermissions, acceptEdits, dontAsk, default"),
        ("gemini_cli", "permission_mode", "acceptEdits", "must be one of yolo, auto_edit, default"),
        ("claude_code", "allowed_tools", ["bash"], "is none of its tools; did you mean `Bash`? (it has Bash, Read,"),
        ("claude_code", "allowed_tools", ["WebSearch"], "is none of its tools (it has"),
        ("claude_code", "disallowed_tools", ["bash(rm *)"], "did you mean `Bash`?"),
        ("claude_code", "disallowed_tools", ["mcp__massgen__vote"], "names a tool of an MCP server"),
        ("claude_code", "disallowed_tools", ["--model x"], "must be a tool's name"),
        ("gemini_cli", "disallowed_tools", ["run_shell_command(rm)"], "`gemini` does not keep such rules"),
        ("gemini_cli", "system_prompt", "x" * 30_001, "at most 30000"),
    ],
)
def test_a_setting_that_the_program_would_not_keep_is_accepted(
    tmp_path: Path, backend: str, key: str, value: object, said: str
) -> None:
    """It is refused, with the key and its line, and what there is instead."""
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, backend, **{key: value})
    assert said in str(caught.value)
    assert f"agent.backend.{key}" in str(caught.value)


def test_a_rule_is_written_that_its_mode_does_not_look_at(tmp_path: Path) -> None:
    """Where everything is allowed, no rule says what is."""
    with pytest.raises(ConfigError, match="leave `permission_mode` out"):
        configured(tmp_path, "claude_code", allowed_tools=["Bash(git *)"], permission_mode="bypassPermissions")


def test_claude_asks_somebody_who_is_not_there() -> None:
    """Without a word it asks nobody; with rules what they do not allow is denied, and answering always is allowed."""
    words = started("claude").argv
    assert "--dangerously-skip-permissions" in words
    assert after(words, "--tools") == ("Bash,Read,Edit,Write,Glob,Grep",)
    words = started("claude", allowed_tools=("Bash(git *)", "Bash(ls)", "Read")).argv
    assert "--dangerously-skip-permissions" not in words
    assert after(words, "--permission-mode") == ("dontAsk",)
    assert after(words, "--allowedTools") == ("mcp__massgen", "Bash(git *)", "Bash(ls)", "Read")
    assert after(words, "--tools") == ("Bash,Read",)
    words = started("claude", allowed_tools=("Read",), disallowed_tools=("Read(.env)", "Bash")).argv
    assert "--dangerously-skip-permissions" in words
    assert after(words, "--disallowedTools") == ("Read(.env)", "Bash")
    assert after(started("claude", allowed_tools=()).argv, "--tools") == ("",)
    assert after(started("claude", permission_mode="default").argv, "--allowedTools") == ("mcp__massgen",)


def test_gemini_is_left_without_its_answer() -> None:
    """A list of all that it has holds what it answers with; what would want its provider's services is never on it."""
    start = started("gemini", allowed_tools=("glob",), disallowed_tools=("read_file",), permission_mode="auto_edit")
    tools = gemini_settings(start)["tools"]
    assert isinstance(tools, dict)
    assert tools["core"] == ["glob", "mcp_massgen_*"]
    assert {"read_file", "google_web_search", "web_fetch"} <= set(tools["exclude"])
    assert after(start.argv, "--approval-mode") == ("auto_edit",)
    plain = gemini_settings(started("gemini"))["tools"]
    assert isinstance(plain, dict)
    assert "core" not in plain
    assert after(started("gemini").argv, "--approval-mode") == ("yolo",)


PROMPT = "Say \"hi\"; $HOME `id` 'x'\n%s \\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_prompt_is_changed_by_a_shell_on_its_way(name: str) -> None:
    """It is a word of the command line or a variable, whole; no shell reads it as its own."""
    start = started(name, system_prompt=PROMPT, append_system_prompt=PROMPT)
    words = [*start.argv, *start.env.values()]
    assert sum(PROMPT in word or json.dumps(PROMPT) in word for word in words) == 2
    if start.argv[0] == "sh":
        assert PROMPT not in start.argv[2]
