"""The programs that can be an agent, one class each: how it starts in the container, and in what protocol it asks for its model.

None is asked to keep to anything: what it may do is decided by the container, and what it may ask for by the reader of its
protocol. A model's name in the container is what the program needs to hear, not always the one that is called: `codex` knows the
names of its maker's models and would ask for tools that run at the provider, so it hears of one that it does not know.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from massgen.agent import cli_generate, cli_messages, cli_responses
from massgen.agent.httpd import Answer, Asked
from massgen.config.backends import TABLE
from massgen.config.model import ProgramConfig
from massgen.messages import Reply, Request, ToolResult
from sandbox import HOME

PLACE: Final = "/opt/massgen/cli"
"""The folder in the container in which an agent's programs are mounted, each under its name."""
NO_KEY: Final = "none-in-here"


@dataclass(frozen=True, kw_only=True)
class Start:
    """One run of a program, which gets its prompt on stdin."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class Program(Protocol):
    """What the strategy needs to know of a program."""

    name: str
    prefix: str
    """Before the names of our MCP server's tools, in the program's requests."""

    def start(self, *, address: str, model: str, settings: ProgramConfig) -> Start:
        """How to run it, with its provider and the MCP server at `address`."""
        ...

    def called(self, model: str) -> str:
        """The name under which it asks for the agent's model."""
        ...

    def asks(self, asked: Asked) -> bool:
        """Whether a request is one for the model."""
        ...

    def read(self, asked: Asked) -> tuple[str, Request]:
        """The model that it asks for, and what. Raises NotTaken."""
        ...

    def told(self, reply: Reply, asked: Asked, *, model: str) -> Answer:
        """A reply as the program expects it."""
        ...

    def refused(self, why: str, *, missing: bool = False) -> Answer:
        """A refusal in its provider's words; `missing`: there is no such model or address."""
        ...

    def shown(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """Arguments of its own tools under the names that ours have, for people."""
        ...

    def outcome(self, result: ToolResult) -> tuple[bool, int | None]:
        """Whether a command went well, and its exit code where the result says it."""
        ...


class Claude:
    """Claude Code: Messages."""

    name = "claude"
    prefix = "mcp__massgen__"
    ENV: Final = {
        "ANTHROPIC_API_KEY": NO_KEY,
        # Else its system text begins with words that differ from prompt to prompt, and no look reads what another has cached.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1",
        "DISABLE_AUTOUPDATER": "1",
        "ENABLE_TOOL_SEARCH": "false",
        "API_TIMEOUT_MS": "3600000",
    }

    def start(self, *, address: str, model: str, settings: ProgramConfig) -> Start:
        """One turn, without a session or settings of its own."""
        server = {"mcpServers": {"massgen": {"type": "http", "url": f"{address}/mcp"}}}
        prompts = {"--system-prompt": settings.system_prompt, "--append-system-prompt": settings.append_system_prompt}
        argv = (
            *(f"{PLACE}/claude", "-p", "--output-format", "stream-json", "--verbose"),
            *("--setting-sources", "", "--no-session-persistence", "--strict-mcp-config", "--mcp-config", json.dumps(server)),
            *("--model", model, *self._permitted(settings)),
            *(word for flag, text in prompts.items() if text for word in (flag, text)),
        )
        return Start(argv=argv, env={**self.ENV, "ANTHROPIC_BASE_URL": address, "ANTHROPIC_SMALL_FAST_MODEL": model})

    def _permitted(self, settings: ProgramConfig) -> tuple[str, ...]:
        """Its tools and permissions. Rules are looked at only where there is a mode in which something is not allowed."""
        allowed = settings.allowed_tools
        ruled = any("(" in tool for tool in allowed or ())
        mode = settings.permission_mode or ("dontAsk" if ruled else "bypassPermissions")
        tools = (
            TABLE["claude_code"].tools if allowed is None else tuple(dict.fromkeys(tool.partition("(")[0] for tool in allowed))
        )
        if mode == "bypassPermissions":
            how: tuple[str, ...] = ("--dangerously-skip-permissions",)
        else:
            how = ("--permission-mode", mode, "--allowedTools", self.prefix.removesuffix("__"), *(allowed or ()))
        denied = ("--disallowedTools", *settings.disallowed_tools) if settings.disallowed_tools else ()
        return (*how, *denied, "--tools", ",".join(tools))

    def called(self, model: str) -> str:
        """By its own name."""
        return model

    def asks(self, asked: Asked) -> bool:
        """One address."""
        return (asked.method, asked.path) == ("POST", "/v1/messages")

    def read(self, asked: Asked) -> tuple[str, Request]:
        """See `cli_messages`."""
        return cli_messages.read(asked.body)

    def told(self, reply: Reply, asked: Asked, *, model: str) -> Answer:  # noqa: ARG002 - it always asks for a stream
        """As a stream."""
        return Answer(status=200, body=cli_messages.write(reply, model=model), kind="text/event-stream")

    def refused(self, why: str, *, missing: bool = False) -> Answer:
        """As the provider refuses."""
        return _refusal(cli_messages.refused(why, missing=missing))

    def shown(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """A file is `file_path` there."""
        return _renamed(args, {"file_path": "path"})

    def outcome(self, result: ToolResult) -> tuple[bool, int | None]:
        """Results say whether they are errors."""
        return result.ok, None


class Codex:
    """OpenAI's Codex: Responses."""

    name = "codex"
    prefix = "mcp__massgen__"
    OFF: Final = ("apps", "goals", "hooks", "image_generation", "multi_agent", "plugins", "skill_search", "tool_suggest")
    """Features that would want their provider's services, or agents beside this one."""
    PROMPT: Final = f"{HOME}/.massgen/prompt.md"
    _EXIT: Final = re.compile(r"^Process exited with code (\d+)$", re.MULTILINE)

    def start(self, *, address: str, model: str, settings: ProgramConfig) -> Start:
        """One turn, without a session, a user's config, permissions or a sandbox of its own."""
        own, more = settings.system_prompt, settings.append_system_prompt
        provider = f'name="massgen",base_url="{address}/v1",wire_api="responses",supports_websockets=false'
        patience = "request_max_retries=0,stream_max_retries=0,stream_idle_timeout_ms=3600000"
        server = f'url="{address}/mcp",default_tools_approval_mode="approve",startup_timeout_sec=60,tool_timeout_sec=3600'
        config = (
            "model_provider=massgen",
            f"model_providers.massgen={{{provider},{patience}}}",
            f"mcp_servers.massgen={{{server}}}",
            "analytics.enabled=false",
            "check_for_update_on_startup=false",
            "web_search=disabled",
            *(f"features.{name}=false" for name in self.OFF),
            *([f"model_instructions_file={json.dumps(self.PROMPT)}"] if own else ()),
            *([f"developer_instructions={json.dumps(more)}"] if more else ()),
        )
        argv = (
            *(f"{PLACE}/codex", "exec", "--json", "--ephemeral", "--ignore-user-config", "--skip-git-repo-check"),
            *("--dangerously-bypass-approvals-and-sandbox", "-m", self.called(model)),
            *(word for line in config for word in ("-c", line)),
            "-",
        )
        return _with_files(Start(argv=argv), {self.PROMPT: own} if own else {})

    def called(self, model: str) -> str:  # noqa: ARG002 - whichever it is
        """By a name that it does not know: its tools are then plain functions."""
        return "massgen"

    def asks(self, asked: Asked) -> bool:
        """One address."""
        return (asked.method, asked.path) == ("POST", "/v1/responses")

    def read(self, asked: Asked) -> tuple[str, Request]:
        """See `cli_responses`."""
        return cli_responses.read(asked.body)

    def told(self, reply: Reply, asked: Asked, *, model: str) -> Answer:  # noqa: ARG002 - it always asks for a stream
        """As a stream."""
        return Answer(status=200, body=cli_responses.write(reply, model=model), kind="text/event-stream")

    def refused(self, why: str, *, missing: bool = False) -> Answer:
        """As the provider refuses."""
        return _refusal(cli_responses.refused(why, missing=missing))

    def shown(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """A command is `cmd` there."""
        return _renamed(args, {"cmd": "command"})

    def outcome(self, result: ToolResult) -> tuple[bool, int | None]:
        """Results are text, and say how a command ended."""
        return _ended(result, self._EXIT)


class Gemini:
    """Google's Gemini CLI, which needs `node` beside itself: generateContent."""

    name = "gemini"
    prefix = "mcp_massgen_"
    ENV: Final = {"GEMINI_API_KEY": NO_KEY, "GEMINI_CLI_TRUST_WORKSPACE": "true", "GEMINI_CLI_NO_RELAUNCH": "true"}
    WITHOUT: Final = ("web_fetch", "google_web_search", "invoke_agent", "enter_plan_mode", "activate_skill", "update_topic")
    """Tools that would want their provider's services, or that nobody is there for."""
    HELPERS: Final = (
        *("edit-corrector", "llm-edit-fixer", "next-speaker-checker", "summarizer-default", "summarizer-shell"),
        *("context-snapshotter", "agent-history-provider-summarizer", "chat-compression-default"),
        *(
            f"chat-compression-{name}"
            for name in ("3-pro", "3-flash", "3.1-flash-lite", "2.5-pro", "2.5-flash", "2.5-flash-lite")
        ),
    )
    """What it would ask other models for."""
    _EXIT: Final = re.compile(r"^Exit Code: (\d+)$", re.MULTILINE)
    FOLDER: Final = f"{HOME}/.gemini"

    def start(self, *, address: str, model: str, settings: ProgramConfig) -> Start:
        """One turn, with these settings for a user's.

        Settings that stand above a project's are only read from files that root owns, and nobody is root in the container.
        """
        users = {
            "general": {"enableAutoUpdate": False},
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "model": {"disableLoopDetection": True},
            "modelConfigs": {"customAliases": {name: {"modelConfig": {"model": model}} for name in self.HELPERS}},
            "tools": {
                "exclude": [*self.WITHOUT, *settings.disallowed_tools],
                **({} if settings.allowed_tools is None else {"core": [*settings.allowed_tools, f"{self.prefix}*"]}),
            },
            "mcpServers": {"massgen": {"httpUrl": f"{address}/mcp", "trust": True, "timeout": 3_600_000}},
        }
        mode = settings.permission_mode or "yolo"
        argv = (
            *(f"{PLACE}/node", f"{PLACE}/gemini/bundle/gemini.js", "--output-format", "stream-json", "--approval-mode", mode),
            *("--skip-trust", "--model", model),
        )
        files = {f"{self.FOLDER}/settings.json": json.dumps(users)}
        env = {**self.ENV, "GOOGLE_GEMINI_BASE_URL": address}
        if settings.append_system_prompt:
            files[f"{self.FOLDER}/GEMINI.md"] = settings.append_system_prompt
        if settings.system_prompt:
            env["GEMINI_SYSTEM_MD"] = f"{self.FOLDER}/massgen.md"
            files[env["GEMINI_SYSTEM_MD"]] = settings.system_prompt
        return _with_files(Start(argv=argv, env=env), files)

    def called(self, model: str) -> str:
        """By its own name."""
        return model

    def asks(self, asked: Asked) -> bool:
        """An address for each model."""
        return asked.method == "POST" and cli_generate.asks(asked.path)

    def read(self, asked: Asked) -> tuple[str, Request]:
        """See `cli_generate`."""
        return cli_generate.read(asked.path, asked.body)

    def told(self, reply: Reply, asked: Asked, *, model: str) -> Answer:
        """As a stream where it asked for one."""
        stream = asked.path.endswith(":streamGenerateContent")
        kind = "text/event-stream" if stream else "application/json"
        return Answer(status=200, body=cli_generate.write(reply, model=model, stream=stream), kind=kind)

    def refused(self, why: str, *, missing: bool = False) -> Answer:
        """As the provider refuses."""
        return _refusal(cli_generate.refused(why, missing=missing))

    def shown(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """A file is `file_path` there, a folder `dir_path`."""
        return _renamed(args, {"file_path": "path", "dir_path": "path"})

    def outcome(self, result: ToolResult) -> tuple[bool, int | None]:
        """Results are text, and say how a command ended when it failed."""
        return _ended(result, self._EXIT)


PROGRAMS: Final[Mapping[str, Program]] = {program.name: program for program in (Claude(), Codex(), Gemini())}


def mounted(name: str) -> str:
    """Where in the container a program, or what it needs beside itself, is mounted."""
    return f"{PLACE}/{name}"


def _with_files(start: Start, files: Mapping[str, str]) -> Start:
    """A program with files that are written before it begins: it reads them from nowhere else than its home."""
    if not files:
        return start
    named = {f"MASSGEN_FILE_{number}": path for number, path in enumerate(files)}
    written = [
        f'mkdir -p {shlex.quote(path.rpartition("/")[0])} && printf %s "${name}" > {shlex.quote(path)}'
        for name, path in named.items()
    ]
    script = " && ".join([*written, f"unset {' '.join(named)}", 'exec "$@"'])
    return Start(
        argv=("sh", "-c", script, "sh", *start.argv), env={**start.env, **{name: files[path] for name, path in named.items()}}
    )


def _refusal(told: tuple[int, bytes]) -> Answer:
    return Answer(status=told[0], body=told[1])


def _ended(result: ToolResult, says: re.Pattern[str]) -> tuple[bool, int | None]:
    found = says.search(result.text)
    code = int(found[1]) if found else None
    return result.ok and not code, code


def _renamed(args: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    return {names.get(key, key): value for key, value in args.items()}
