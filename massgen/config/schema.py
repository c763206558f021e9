"""The shape of a config file: which keys exist, of which type, and what to say about all others.

Pydantic stands only here, where untrusted text enters. Keys that the product is going to have are listed
with the others in `LATER`: they are errors that say so, because a limit or a cap that is accepted and not
kept is worse than none.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from massgen.config.backends import BACKENDS
from massgen.config.model import CoordinationMode, DisplayType, Novelty, Permission, WriteMode
from massgen.config.source import Document, Path_, dotted
from massgen.errors import ConfigError
from sandbox.spec import DraftKind

Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Prompt = Annotated[str, Field(max_length=30_000)]
"""A program is given it as one word of its command line, of which Linux takes 128 KiB."""
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class _Raw(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RawPath(_Raw):
    """One entry of `context_paths`."""

    path: Annotated[str, Field(min_length=1)]
    permission: Permission = "read"
    protected_paths: list[str] = []


class RawText(_Raw):
    """`backend.text`."""

    verbosity: Literal["low", "medium", "high"] | None = None


class RawReasoning(_Raw):
    """`backend.reasoning`."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class RawBackend(_Raw):
    """`agents[].backend`."""

    type: str
    model: str | None = None
    api_key: str | None = None
    base_url: str | None = None
    allow_http: bool | None = None
    cwd: str | None = None
    api_version: str | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    max_tokens: Count | None = None
    text: RawText | None = None
    reasoning: RawReasoning | None = None
    max_thinking_tokens: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    enable_web_search: bool | None = None
    enable_code_execution: bool | None = None
    enable_code_interpreter: bool | None = None
    max_search_results: Annotated[int, Field(ge=1, le=100)] | None = None
    search_mode: Literal["auto", "on", "off"] | None = None
    return_citations: bool | None = None
    extra_body: dict[str, Any] | None = None
    script: str | None = None
    command: str | None = None
    system_prompt: Prompt | None = None
    append_system_prompt: Prompt | None = None
    permission_mode: str | None = None
    allowed_tools: list[str] | None = None
    disallowed_tools: list[str] | None = None
    context_paths: list[RawPath] = []


class RawParams(_Raw):
    """`backend_params`: defaults for every agent's backend."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    max_tokens: Count | None = None
    enable_web_search: bool | None = None
    enable_code_execution: bool | None = None
    enable_code_interpreter: bool | None = None
    extra_body: dict[str, Any] | None = None


class RawAgent(_Raw):
    """One of `agents`."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    backend: RawBackend
    system_message: str = ""


class RawOrchestrator(_Raw):
    """`orchestrator`."""

    context_paths: list[RawPath] | None = None
    verify: str = ""
    write: WriteMode | None = None
    coordination: CoordinationMode | None = None
    enable_planning_mode: bool = False
    planning_mode_instruction: str = ""
    consensus: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    max_debates: Annotated[int, Field(ge=0, le=100)] = 1
    answer_novelty: Novelty = "lenient"
    max_new_answers_per_agent: Count | None = None
    max_new_answers_global: Count | None = None
    snapshot_storage: str | None = None
    agent_temporary_workspace: str | None = None


class RawSandbox(_Raw):
    """`sandbox`. Sizes are bytes or text such as `4g`, `512m`."""

    image: Annotated[str, Field(min_length=1)] | None = None
    prepare: list[Annotated[str, Field(min_length=1)]] = []
    prepare_files: list[Annotated[str, Field(min_length=1)]] = []
    memory: str | int | None = None
    cpus: Annotated[float, Field(gt=0, le=1024, allow_inf_nan=False)] | None = None
    pids: Annotated[int, Field(ge=16, le=100_000)] | None = None
    disk: str | int | None = None
    draft: DraftKind = "auto"
    runtime: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] | None = None
    require: list[str] = []


class RawTimeouts(_Raw):
    """`timeout_settings`."""

    orchestrator_timeout_seconds: Seconds | None = None
    agent_timeout_seconds: Seconds | None = None
    command_timeout_seconds: Seconds | None = None


class RawSpending(_Raw):
    """`budget`, or one agent's part of it."""

    max_cost_usd: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10**12)] | None = None


class RawPrice(_Raw):
    """`budget.prices`: US dollars per million tokens."""

    input: Annotated[float, Field(ge=0, le=1e5, allow_inf_nan=False)]
    output: Annotated[float, Field(ge=0, le=1e5, allow_inf_nan=False)]
    cached: Annotated[float, Field(ge=0, le=1e5, allow_inf_nan=False)] | None = None


class RawBudget(RawSpending):
    """`budget`."""

    per_agent: dict[str, RawSpending] = {}
    prices: dict[str, RawPrice] = {}


class RawUi(_Raw):
    """`ui`."""

    display_type: DisplayType = "rich_terminal"
    logging_enabled: bool = True


class RawConfig(_Raw):
    """The whole file."""

    agent: RawAgent | None = None
    agents: Annotated[list[RawAgent], Field(min_length=1, max_length=64)] | None = None
    backend_params: RawParams = RawParams()
    orchestrator: RawOrchestrator = RawOrchestrator()
    sandbox: RawSandbox = RawSandbox()
    timeout_settings: RawTimeouts = RawTimeouts()
    budget: RawBudget = RawBudget()
    ui: RawUi = RawUi()


_MODELS: dict[str, type[_Raw]] = {
    "": RawConfig,
    "agent": RawAgent,
    "backend": RawBackend,
    "budget": RawBudget,
    "backend_params": RawParams,
    "context_paths": RawPath,
    "orchestrator": RawOrchestrator,
    "reasoning": RawReasoning,
    "sandbox": RawSandbox,
    "text": RawText,
    "timeout_settings": RawTimeouts,
    "ui": RawUi,
}
"""By the last name in a value's path; `agents` items are `agent`."""

LATER: dict[str, frozenset[str]] = {
    "agent": frozenset({"sandbox", "allowed_tools", "exclude_tools"}),
    "backend": frozenset({"mcp_servers", "exclude_tools"}),
    "context_paths": frozenset({"mount_at"}),
    "sandbox": frozenset({"seccomp", "network"}),
}
"""Keys of later versions. They must not be ignored silently: most are limits or permissions."""

LATER_BACKENDS = frozenset({"ag2"})


def check(document: Document) -> RawConfig:
    """The document as `RawConfig`. Raises ConfigError with file, line, key and what to do about the first fault."""
    if "agent" in document.data and "agents" in document.data:
        raise document.error(("agents",), "give `agent` or `agents`, not both")
    try:
        return RawConfig.model_validate(document.data)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=True)
        # A typo also makes the right key missing: it is the typo that the user must hear of.
        first = min(faults, key=lambda f: (f["type"] != "extra_forbidden", document.line(_path(f["loc"]))))
        raise _complaint(document, first) from None
    except RecursionError:
        raise ConfigError(f"{document.name}: nested too deeply") from None


def _path(loc: tuple[str | int, ...]) -> Path_:
    """Pydantic's loc without the names of union members (`memory.str`)."""
    return tuple(p for p in loc if p not in ("str", "int"))


def _complaint(document: Document, fault: ErrorDetails) -> ConfigError:
    path = _path(fault["loc"])
    kind = fault["type"]
    if kind == "extra_forbidden":
        return document.error(path, unknown_key(path))
    if kind == "missing":
        return document.error(path[:-1], f"needs the key `{path[-1]}`")
    if kind == "literal_error":
        return document.error(path, _choices(fault, document, path))
    return document.error(path, _SENTENCES.get(kind) or _plain(fault["msg"]))


_MAPPING = "must be a mapping (`key: value` lines below it)"
_SENTENCES = {
    "string_type": "must be text; put it in quotes",
    "string_pattern_mismatch": "must be 1 to 63 letters, digits, `.`, `_` or `-`, and start with a letter or digit",
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "list_type": "must be a list (`- …` lines below it)",
}


def _choices(fault: ErrorDetails, document: Document, path: Path_) -> str:
    """What may stand there, and the nearest of it."""
    expected = str(fault.get("ctx", {}).get("expected", "one of the known values"))
    given: Any = document.data
    for part in path:
        given = given[part]
    near = difflib.get_close_matches(str(given), re.findall(r"'([^']+)'", expected), n=1, cutoff=0.6)
    return f"must be {expected}" + (f"; did you mean `{near[0]}`?" if near else "")


def _plain(message: str) -> str:
    """Pydantic's sentence without its vocabulary."""
    out = message.replace("Input should be a valid", "must be a").replace("Input should be", "must be")
    return out[:1].lower() + out[1:]


def unknown_key(path: Path_) -> str:
    """What to say about a key that is not in the schema: of a later version, or a typo of which."""
    key = str(path[-1])
    owner = _owner(path[:-1])
    if key in LATER.get(owner, frozenset()):
        return "is not supported by this version; remove the key (it would not be kept)"
    model = _MODELS.get(owner)
    known = sorted(model.model_fields) if model else []
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean `{near[0]}`?"
    elsewhere = sorted(name for name, other in _MODELS.items() if key in other.model_fields and name != owner)
    hint = f"; it belongs below `{elsewhere[0] or 'the top level'}`" if elsewhere else ""
    return f"unknown key{hint}; known here: {', '.join(known)}"


def _owner(path: Path_) -> str:
    names = [p for p in path if isinstance(p, str)]
    last = names[-1] if names else ""
    return "agent" if last == "agents" else last


def check_backend_type(document: Document, path: Path_, value: str) -> None:
    """Raises ConfigError when this version has no such backend, saying which it has."""
    if value in BACKENDS:
        return
    raise document.error(path, unknown_backend(value))


def unknown_backend(value: str) -> str:
    """One sentence on what to use instead."""
    have = ", ".join(BACKENDS)
    near = difflib.get_close_matches(value, BACKENDS, n=1, cutoff=0.6)
    if value in LATER_BACKENDS:
        what = f"the backend `{value}` is not in this version"
    elif near:
        what = f"unknown backend `{value[:40]}`; did you mean `{near[0]}`?"
    else:
        what = f"unknown backend `{value[:40]}`"
    return f"{what} (available: {have}); `chatcompletion` with a `base_url` works with any OpenAI-compatible endpoint"


def display_types() -> tuple[str, ...]:
    """For the command line's choice."""
    return get_args(DisplayType)


__all__ = ["LATER", "RawConfig", "check", "check_backend_type", "display_types", "dotted", "unknown_backend", "unknown_key"]
