"""PURE: the backends that a config can name: which protocol each speaks, where, with whose key, and what it takes.

One table, read by the config (which keys are allowed, which variable holds the key), by the factory (which adapter) and by the
command line (which backend a model's name means). A provider is one row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

BackendType = Literal[
    "openai",
    "azure_openai",
    "chatcompletion",
    "grok",
    "zai",
    "claude",
    "gemini",
    "lmstudio",
    "vllm",
    "sglang",
    "ollama",
    "local",
    "scripted",
    "claude_code",
    "codex",
    "gemini_cli",
]
BACKENDS: Final[tuple[BackendType, ...]] = get_args(BackendType)

Protocol = Literal["responses", "chat", "messages", "generate", "embedded", "recorded"]

SAMPLING: Final = frozenset({"temperature", "top_p", "max_tokens"})
REMOTE: Final = frozenset({"api_key", "base_url", "allow_http", "extra_body"})
SEARCH: Final = frozenset({"enable_web_search", "max_search_results", "search_mode", "return_citations"})
CODE: Final = frozenset({"enable_code_execution", "enable_code_interpreter"})


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One row."""

    protocol: Protocol
    url: str = ""
    """Where it is unless the config says otherwise; empty: the config must say."""
    variable: str = ""
    """Whose key it takes; empty: none."""
    takes: frozenset[str] = frozenset()
    """Keys of `backend` in a config that have a meaning here, beside `type` and `model`."""
    ignores: frozenset[str] = frozenset()
    """Keys that it once took: accepted, and reported once as ignored."""
    program: str = ""
    """The command that users have installed: it runs in the agent's container and asks for its model through the host."""
    tools: tuple[str, ...] = ()
    """The program's own tools that can be chosen from; empty: it has no way to choose."""
    rules: bool = False
    """Whether a tool can be allowed or not by what it is called with, such as `Bash(git *)`."""
    permission_modes: tuple[str, ...] = ()
    """What the program calls the ways in which it asks nobody, as nobody is there to be asked."""
    local: bool = False
    """A server that users run on their own machine: costs nothing and needs no key, wherever it stands."""


_LOCAL: Final = SAMPLING | REMOTE
_PROGRAM: Final = frozenset(
    {"api_key", "base_url", "allow_http", "max_tokens", "reasoning", "command", "system_prompt", "append_system_prompt"}
)
_CHOSEN: Final = frozenset({"max_thinking_tokens", "permission_mode", "allowed_tools", "disallowed_tools"})
_NOT_PASSED: Final = frozenset({"temperature", "top_p"})
"""Of sampling: Claude takes it no more, and a program decides it for itself."""

TABLE: Final[Mapping[BackendType, Backend]] = {
    "openai": Backend(
        protocol="responses",
        url="https://api.openai.com/v1",
        variable="OPENAI_API_KEY",
        takes=SAMPLING | REMOTE | {"text", "reasoning", "enable_web_search"} | CODE,
    ),
    "azure_openai": Backend(
        protocol="responses",
        variable="AZURE_OPENAI_API_KEY",
        takes=SAMPLING | REMOTE | {"text", "reasoning", "api_version"} | CODE,
    ),
    "chatcompletion": Backend(
        protocol="chat",
        url="https://api.openai.com/v1",
        takes=SAMPLING | REMOTE | {"text", "reasoning"},
    ),
    "grok": Backend(
        protocol="chat",
        url="https://api.x.ai/v1",
        variable="XAI_API_KEY",
        takes=SAMPLING | REMOTE | {"reasoning"} | SEARCH,
    ),
    "zai": Backend(
        protocol="chat", url="https://api.z.ai/api/paas/v4", variable="ZAI_API_KEY", takes=SAMPLING | REMOTE | {"reasoning"}
    ),
    "claude": Backend(
        protocol="messages",
        url="https://api.anthropic.com",
        variable="ANTHROPIC_API_KEY",
        takes=REMOTE | {"max_tokens", "max_thinking_tokens", "reasoning", "enable_web_search", "max_search_results"} | CODE,
        ignores=_NOT_PASSED,
    ),
    "gemini": Backend(
        protocol="generate",
        url="https://generativelanguage.googleapis.com",
        variable="GEMINI_API_KEY",
        takes=SAMPLING | REMOTE | {"reasoning", "max_thinking_tokens", "enable_web_search"} | CODE,
    ),
    "lmstudio": Backend(protocol="chat", url="http://127.0.0.1:1234/v1", takes=_LOCAL, local=True),
    "vllm": Backend(protocol="chat", url="http://127.0.0.1:8000/v1", takes=_LOCAL, local=True),
    "sglang": Backend(protocol="chat", url="http://127.0.0.1:30000/v1", takes=_LOCAL, local=True),
    "ollama": Backend(protocol="chat", url="http://127.0.0.1:11434/v1", takes=_LOCAL, local=True),
    "local": Backend(protocol="embedded", takes=frozenset({"temperature", "max_tokens"}), local=True),
    "scripted": Backend(protocol="recorded", takes=SAMPLING | {"script"}, local=True),
    "claude_code": Backend(
        protocol="messages",
        url="https://api.anthropic.com",
        variable="ANTHROPIC_API_KEY",
        takes=_PROGRAM | _CHOSEN,
        ignores=_NOT_PASSED,
        program="claude",
        tools=("Bash", "Read", "Edit", "Write", "Glob", "Grep"),
        rules=True,
        permission_modes=("bypassPermissions", "acceptEdits", "dontAsk", "default"),
    ),
    "codex": Backend(
        protocol="responses",
        url="https://api.openai.com/v1",
        variable="OPENAI_API_KEY",
        takes=_PROGRAM | {"text"},
        ignores=_NOT_PASSED,
        program="codex",
    ),
    "gemini_cli": Backend(
        protocol="generate",
        url="https://generativelanguage.googleapis.com",
        variable="GEMINI_API_KEY",
        takes=_PROGRAM | _CHOSEN,
        ignores=_NOT_PASSED,
        program="gemini",
        tools=(
            *("run_shell_command", "read_file", "write_file", "replace", "glob", "grep_search", "list_directory"),
            *("write_todos", "list_background_processes", "read_background_output"),
        ),
        permission_modes=("yolo", "auto_edit", "default"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A provider that speaks Chat Completions: `base_url: groq` is as good as its address."""

    url: str
    variable: str
    """Where its key is looked for."""


PRESETS: Final[Mapping[str, Preset]] = {
    "cerebras": Preset(url="https://api.cerebras.ai/v1", variable="CEREBRAS_API_KEY"),
    "deepseek": Preset(url="https://api.deepseek.com/v1", variable="DEEPSEEK_API_KEY"),
    "fireworks": Preset(url="https://api.fireworks.ai/inference/v1", variable="FIREWORKS_API_KEY"),
    "groq": Preset(url="https://api.groq.com/openai/v1", variable="GROQ_API_KEY"),
    "kimi": Preset(url="https://api.moonshot.ai/v1", variable="MOONSHOT_API_KEY"),
    "moonshot": Preset(url="https://api.moonshot.ai/v1", variable="MOONSHOT_API_KEY"),
    "nebius": Preset(url="https://api.studio.nebius.com/v1", variable="NEBIUS_API_KEY"),
    "openrouter": Preset(url="https://openrouter.ai/api/v1", variable="OPENROUTER_API_KEY"),
    "poe": Preset(url="https://api.poe.com/v1", variable="POE_API_KEY"),
    "qwen": Preset(url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1", variable="QWEN_API_KEY"),
    "together": Preset(url="https://api.together.xyz/v1", variable="TOGETHER_API_KEY"),
}

OTHER_HOST: Final = "MASSGEN_API_KEY"
"""For servers that no row and no preset knows."""

KEYS_AT: Final[Mapping[str, str]] = {
    "ANTHROPIC_API_KEY": "https://console.anthropic.com/settings/keys",
    "AZURE_OPENAI_API_KEY": "https://portal.azure.com (Keys and Endpoint of the resource)",
    "CEREBRAS_API_KEY": "https://cloud.cerebras.ai",
    "DEEPSEEK_API_KEY": "https://platform.deepseek.com/api_keys",
    "FIREWORKS_API_KEY": "https://fireworks.ai/account/api-keys",
    "GEMINI_API_KEY": "https://aistudio.google.com/apikey",
    "GROQ_API_KEY": "https://console.groq.com/keys",
    "MOONSHOT_API_KEY": "https://platform.moonshot.ai/console/api-keys",
    "NEBIUS_API_KEY": "https://studio.nebius.com",
    "OPENAI_API_KEY": "https://platform.openai.com/api-keys",
    "OPENROUTER_API_KEY": "https://openrouter.ai/keys",
    "POE_API_KEY": "https://poe.com/api_key",
    "QWEN_API_KEY": "https://bailian.console.alibabacloud.com",
    "TOGETHER_API_KEY": "https://api.together.ai/settings/api-keys",
    "XAI_API_KEY": "https://console.x.ai",
    "ZAI_API_KEY": "https://z.ai/manage-apikey/apikey-list",
}
"""Where people get the key of each variable."""

_PLACES: Final = [(row.url, row.variable) for row in TABLE.values() if row.variable and row.url]
_HOSTS: Final[Mapping[str, str]] = {
    (urlsplit(url).hostname or ""): variable for url, variable in [*_PLACES, *((p.url, p.variable) for p in PRESETS.values())]
}
_ALSO: Final[Mapping[str, tuple[str, ...]]] = {
    "GEMINI_API_KEY": ("GOOGLE_API_KEY",),
    "QWEN_API_KEY": ("DASHSCOPE_API_KEY",),
    "MOONSHOT_API_KEY": ("KIMI_API_KEY",),
    "ZAI_API_KEY": ("ZHIPUAI_API_KEY",),
}

_NAMES: Final[tuple[tuple[re.Pattern[str], BackendType], ...]] = (
    (re.compile(r"claude"), "claude"),
    (re.compile(r"gemini"), "gemini"),
    (re.compile(r"grok"), "grok"),
    (re.compile(r"glm-"), "zai"),
    (re.compile(r"gpt-oss"), "chatcompletion"),
    (re.compile(r"gpt-|chatgpt-|o\d|codex-"), "openai"),
)


def backend_for(model: str) -> BackendType | None:
    """The backend that a model's name means; None when none is known."""
    name = model.lower()
    return next((backend for pattern, backend in _NAMES if pattern.match(name)), None)


def variable_for(backend: BackendType, url: str) -> str:
    """The variable that holds the key of an endpoint; `url` empty: the backend's own. Empty: no key is needed.

    The host decides, not only the backend: a provider's key is never offered to somebody else's server merely because that
    server speaks the same protocol.
    """
    row = TABLE[backend]
    host = (urlsplit(url or row.url).hostname or "").lower()
    if backend == "azure_openai":
        own = host.endswith((".azure.com", ".azure-api.net")) or not host
        return row.variable if own else OTHER_HOST
    if row.local:
        return ""
    return _HOSTS.get(host, OTHER_HOST)


def spellings(variable: str) -> tuple[str, ...]:
    """The variable, and other names that people have the same key under, in order."""
    return (variable, *_ALSO.get(variable, ()))


def providers() -> dict[str, str]:
    """Whose key each variable holds, in words, for `doctor` and `massgen models`."""
    found: dict[str, str] = {row.variable: name for name, row in TABLE.items() if row.variable and not row.program}
    for name, preset in PRESETS.items():
        found.setdefault(preset.variable, name)
    return {**found, OTHER_HOST: "other servers"}
