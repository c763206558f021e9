"""The team: from `agent:`/`agents:`, or from `--model` and its companions, to `AgentConfig` values with keys."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from massgen.config.backends import BACKENDS, TABLE, BackendType, backend_for
from massgen.config.installed import installed
from massgen.config.keys import base_url, find_key, no_key
from massgen.config.model import LOCAL_MODEL, AgentConfig, BackendConfig, ProgramConfig
from massgen.config.names import did_you_mean
from massgen.config.paths import here
from massgen.config.schema import RawAgent, RawBackend, RawConfig, RawParams, RawPath, check_backend_type, unknown_backend
from massgen.config.sizes import most_tokens
from massgen.config.source import Document, Path_
from massgen.errors import ConfigError

FLAGS_ONLY = "(flags)"
"""The name of the empty document that stands in when there is no config file."""

NOTHING_TO_RUN = (
    "no agents: there is no config file and no --model.\n"
    "  massgen demo                                   see it work, without a key\n"
    '  massgen --config team.yaml "question"          a team from a file\n'
    '  massgen --model claude-… "question"            one agent (ANTHROPIC_API_KEY)\n'
    '  massgen --base-url URL --model M "question"    any OpenAI-compatible endpoint'
)

_LABEL = re.compile(r"agent\d+\Z")
_RULE = re.compile(r"[A-Za-z]\w{0,99}(?:\([^\x00-\x1f]{1,400}\))?")


@dataclass(frozen=True, kw_only=True)
class Single:
    """One agent named on the command line."""

    model: str = ""
    backend: str = ""
    base_url: str = ""
    system_message: str = ""

    def __bool__(self) -> bool:
        return bool(self.model or self.backend or self.base_url)


@dataclass(frozen=True, kw_only=True)
class Member:
    """An agent with what its backend lists as context paths, not yet checked."""

    agent: AgentConfig
    raw_paths: tuple[RawPath, ...] = ()
    at: Path_ = ()


def team(
    single: Single,
    document: Document,
    raw: RawConfig,
    *,
    folder: Path,
    env: Mapping[str, str],
    notices: list[str],
    only: Sequence[str] = (),
    models: Sequence[str] = (),
) -> tuple[Member, ...]:
    """The agents in registration order. Appends to `notices`. Raises ConfigError.

    `only`: ids of the team that are to take part; without a team in the file, models to make one of. `models`: a team of these,
    whatever team the file has.
    `folder` is where the config file lies: `script` is relative to it, being part of the config.
    """
    if models:
        return tuple(Member(agent=agent) for agent in _quick(models, single, env))
    if single:
        named = single if single.backend or single.base_url else _named(single.model, single)
        return (Member(agent=_from_flags(named, env)),)
    if only and raw.agent is None and not raw.agents:
        return tuple(Member(agent=agent) for agent in _quick(only, single, env))
    listed: list[tuple[Path_, RawAgent]] = [(("agents", i), a) for i, a in enumerate(raw.agents or ())]
    if raw.agent is not None:
        listed = [(("agent",), raw.agent)]
    if not listed:
        raise ConfigError(
            NOTHING_TO_RUN if document.name == FLAGS_ONLY else f"{document.name}: needs `agent:` or `agents:`, or give --model"
        )
    seen: dict[str, int] = {}
    out = []
    for at, item in listed:
        line = document.line((*at, "id"))
        if item.id in seen:
            raise document.error((*at, "id"), f"the id `{item.id}` is already used in line {seen[item.id]}; ids are unique")
        seen[item.id] = line
        if _LABEL.match(item.id):
            notices.append(f"agent id `{item.id}` looks like the anonymous labels that agents see; they are not related")
        backend = _backend(document, (*at, "backend"), item.backend, params=raw.backend_params, folder=folder, env=env)
        notices += _ignored(item.backend, raw.backend_params)
        message = single.system_message or item.system_message
        agent = AgentConfig(id=item.id, backend=backend, system_message=message)
        out.append(Member(agent=agent, raw_paths=tuple(item.backend.context_paths), at=(*at, "backend", "context_paths")))
    return _chosen(out, only, document.name) if only else tuple(out)


def _chosen(members: Sequence[Member], only: Sequence[str], name: str) -> tuple[Member, ...]:
    """Those of the team that the user named, in that order."""
    by_id = {member.agent.id: member for member in members}
    for wanted in only:
        if wanted not in by_id:
            near = difflib.get_close_matches(wanted, by_id, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise ConfigError(f"--agents: {name} has no agent `{wanted[:60]}`{hint} (it has {', '.join(by_id)})")
    return tuple(by_id[wanted] for wanted in dict.fromkeys(only))


def _quick(wanted: Sequence[str], single: Single, env: Mapping[str, str]) -> list[AgentConfig]:
    """A team without a file: names of models, or `backend:model`; the same one twice is two agents."""
    out: dict[str, AgentConfig] = {}
    for word in wanted:
        agent = _from_flags(_named(word, single), env)
        numbered = (f"{agent.id}-{number}" for number in itertools.count(2))
        free = next(name for name in (agent.id, *itertools.islice(numbered, len(out) + 1)) if name not in out)
        out[free] = replace(agent, id=free)
    return list(out.values())


def _named(word: str, single: Single) -> Single:
    """What one word means. Raises ConfigError."""
    kind, _, model = word.partition(":")
    if model and kind in BACKENDS:
        return replace(single, backend=kind, model=model)
    # Models have colons too (`qwen3:8b`), so only what nearly is a backend is taken for one.
    free = not (single.backend or single.base_url or backend_for(word))
    if model and free and difflib.get_close_matches(kind, BACKENDS, n=1, cutoff=0.75):
        raise ConfigError(f"{word[:100]!r}: {unknown_backend(kind)}")
    return replace(single, model=word)


def _backend(
    document: Document, at: Path_, raw: RawBackend, *, params: RawParams, folder: Path, env: Mapping[str, str]
) -> BackendConfig:
    check_backend_type(document, (*at, "type"), raw.type)
    kind: BackendType = next(b for b in BACKENDS if b == raw.type)
    _check_taken(document, at, raw, kind)
    model = raw.model or {"local": LOCAL_MODEL, "scripted": "scripted"}.get(kind, "")
    if not model:
        raise document.error(at, f"needs the key `model` (the backend `{kind}` has no default)")
    try:
        url = base_url(raw.base_url) if raw.base_url is not None else ""
    except ConfigError as error:
        raise document.error((*at, "base_url"), str(error)) from error
    if kind == "azure_openai":
        url = url or env.get("AZURE_OPENAI_ENDPOINT", "")
    if not url and not TABLE[kind].url and "base_url" in TABLE[kind].takes:
        raise document.error(at, f"needs the key `base_url`: the backend `{kind}` has an endpoint for each customer")
    secret, source = find_key(kind, url, raw.api_key, env, clear=bool(raw.allow_http))
    if source and secret is None:
        raise document.error(at, f"{no_key(source, model)}, or set `api_key: ${{VARIABLE}}`")
    asked = _Asked(raw, params, TABLE[kind].takes)
    _check_together(document, at, asked, model)
    return BackendConfig(
        type=kind,
        model=model,
        base_url=url,
        api_key=secret,
        key_source=source,
        script=_script(document, at, raw, folder) if kind == "scripted" else None,
        weights=_weights(model, folder) if kind == "local" else None,
        program=_program(document, at, kind, raw.command, env),
        settings=_settings(document, at, raw, kind),
        api_version=raw.api_version or env.get("AZURE_OPENAI_API_VERSION", "") if kind == "azure_openai" else "",
        temperature=asked.value("temperature"),
        top_p=asked.value("top_p"),
        max_tokens=most_tokens(kind, asked.value("max_tokens"), raw.max_thinking_tokens),
        verbosity=raw.text.verbosity if raw.text else None,
        effort=raw.reasoning.effort if raw.reasoning else None,
        summary=raw.reasoning.summary if raw.reasoning else None,
        thinking_tokens=raw.max_thinking_tokens,
        hosted=_hosted(asked, model),
        search=asked.search(),
        extra_body=dict(asked.value("extra_body") or {}),
    )


class _Asked:
    """One agent's settings over everybody's; what the backend has no meaning for is not among them."""

    def __init__(self, raw: RawBackend, params: RawParams, takes: frozenset[str]) -> None:
        self._raw = raw
        self._params = params
        self._takes = takes

    def value(self, key: str) -> Any:  # noqa: ANN401 - whatever the schema says of the key
        """The setting, or None."""
        own = getattr(self._raw, key, None)
        return None if key not in self._takes else own if own is not None else getattr(self._params, key, None)

    def search(self) -> dict[str, Any]:
        """Of the web search, what was said."""
        said = {
            "max_results": self.value("max_search_results"),
            "mode": self.value("search_mode"),
            "citations": self.value("return_citations"),
        }
        return {key: value for key, value in said.items() if value is not None}


def _check_taken(document: Document, at: Path_, raw: RawBackend, kind: BackendType) -> None:
    """A setting that this backend would not keep is an error, not a surprise."""
    row = TABLE[kind]
    for key in raw.model_fields_set - {"type", "model", "cwd", "context_paths"}:
        if getattr(raw, key) is not None and key not in row.takes | row.ignores:
            kinds = [name for name in BACKENDS if key in TABLE[name].takes]
            raise document.error((*at, key), f"is not for the backend `{kind}` (only {', '.join(kinds)}); remove it")


def _check_together(document: Document, at: Path_, asked: _Asked, model: str) -> None:
    """What a provider refuses in combination, before it costs a call."""
    body = asked.value("extra_body") or {}
    if asked.value("enable_web_search") and "search_parameters" in body:
        raise document.error(
            (*at, "extra_body"), "`search_parameters` and `enable_web_search` say the same thing twice; keep one"
        )
    reasoning = asked.value("reasoning")
    if asked.value("enable_web_search") and reasoning and reasoning.effort == "minimal":
        raise document.error(
            (*at, "reasoning"), f"`{model}` cannot search the web with effort `minimal`; raise it, or do not search"
        )


def _hosted(asked: _Asked, model: str) -> frozenset[Literal["web_search", "code_execution"]]:
    wanted: set[Literal["web_search", "code_execution"]] = set()
    if _tools_exclude_hosted(model):
        return frozenset()
    if asked.value("enable_web_search"):
        wanted.add("web_search")
    if asked.value("enable_code_execution") or asked.value("enable_code_interpreter"):
        wanted.add("code_execution")
    return frozenset(wanted)


def _weights(model: str, folder: Path) -> Path | None:
    """The file that a local backend's `model` names; None for the name of the pinned one. Raises: ConfigError."""
    if not model.endswith(".gguf"):
        if model.lower() not in ("local", LOCAL_MODEL.lower()):
            raise ConfigError(
                f"the backend `local` knows {LOCAL_MODEL}, or the path of a GGUF file, not {model[:100]!r}; "
                "`massgen models pull URL` fetches one"
            )
        return None
    path = folder / Path(model).expanduser()
    if not path.is_file():
        raise ConfigError(f"there is no model file {path}; `massgen models pull URL` fetches one and prints its path")
    return path.resolve()


def _tools_exclude_hosted(model: str) -> bool:
    """Gemini before 3 takes either its own tools or ours, and an agent cannot do without ours."""
    return re.match(r"gemini-[12]\b", model) is not None


def _ignored(raw: RawBackend, params: RawParams) -> list[str]:
    """What is accepted without effect, to be said once."""
    out = []
    kind = next(b for b in BACKENDS if b == raw.type)
    out += [
        f"`{key}` is ignored for {kind}: the provider no longer takes it"
        for key in sorted(TABLE[kind].ignores)
        if getattr(raw, key) is not None or getattr(params, key, None) is not None
    ]
    if raw.allow_http and (raw.base_url or "").startswith("http:"):
        out.append(f"`allow_http`: the key for {raw.base_url} is sent unencrypted, for everybody in between to read")
    hosted = raw.enable_web_search or raw.enable_code_execution or params.enable_web_search or params.enable_code_execution
    if hosted and _tools_exclude_hosted(raw.model or ""):
        out.append(
            f"`{raw.model}` takes either the provider's tools or an agent's own: its web search and code execution stay off"
        )
    if raw.cwd is not None:
        out.append("`cwd` is ignored: an agent's workspace lives in its container (/workspace) and ends with it")
    return out


def _program(document: Document, at: Path_, kind: BackendType, command: str | None, env: Mapping[str, str]) -> Mapping[str, Path]:
    try:
        return installed(kind, command, env)
    except ConfigError as error:
        raise document.error((*at, "command") if command else at, str(error)) from error


def _settings(document: Document, at: Path_, raw: RawBackend, kind: BackendType) -> ProgramConfig:
    """How a program is asked to work. A rule that it would not keep is an error."""
    row, mode = TABLE[kind], raw.permission_mode or ""
    if mode and mode not in row.permission_modes:
        raise document.error((*at, "permission_mode"), f"must be one of {', '.join(row.permission_modes)}, not {mode[:40]!r}")
    for key in ("allowed_tools", "disallowed_tools"):
        for index, tool in enumerate(getattr(raw, key) or ()):
            if why := _not_a_tool(tool, row.tools, strict=key == "allowed_tools"):
                raise document.error((*at, key, index), why)
            if "(" in tool and not row.rules:
                raise document.error((*at, key, index), f"must be a tool's name alone: `{row.program}` does not keep such rules")
            if "(" in tool and key == "allowed_tools" and mode == "bypassPermissions":
                raise document.error(
                    (*at, key, index), "is not kept in the mode `bypassPermissions`; leave `permission_mode` out"
                )
    return ProgramConfig(
        system_prompt=raw.system_prompt or "",
        append_system_prompt=raw.append_system_prompt or "",
        permission_mode=mode,
        allowed_tools=None if raw.allowed_tools is None else tuple(raw.allowed_tools),
        disallowed_tools=tuple(raw.disallowed_tools or ()),
    )


def _not_a_tool(rule: str, tools: tuple[str, ...], *, strict: bool) -> str:
    """Why a rule cannot be meant; empty: it can. To be without a tool that is not there needs no program's help."""
    if not _RULE.fullmatch(rule):
        return "must be a tool's name, or one with a rule in parentheses, such as `Bash(git status)`"
    name = rule.partition("(")[0]
    if name in tools:
        return ""
    near = difflib.get_close_matches(name.lower(), [tool.lower() for tool in tools], n=1, cutoff=0.8)
    hint = next((f"; did you mean `{tool}`?" for tool in tools if [tool.lower()] == near), "")
    if name.startswith("mcp_"):
        return "names a tool of an MCP server, and an agent of this kind has none but those to answer and vote"
    return f"is none of its tools{hint} (it has {', '.join(tools)})" if strict or hint else ""


def _script(document: Document, at: Path_, raw: RawBackend, folder: Path) -> Path:
    if raw.script is None:
        raise document.error(at, "needs the key `script`: the file with the recorded replies")
    path = folder / Path(raw.script).expanduser()
    if not path.is_file():
        raise document.error((*at, "script"), f"the file {raw.script!r} does not exist (looked in {folder})")
    return path.resolve()


def _from_flags(single: Single, env: Mapping[str, str]) -> AgentConfig:
    kind = _kind(single)
    if kind == "scripted":
        raise ConfigError("a scripted agent needs a config file: agents: [{id: a, backend: {type: scripted, script: FILE}}]")
    if single.base_url and kind == "local":
        raise ConfigError("--base-url is not for the backend `local`, which runs in this process; use --backend chatcompletion")
    model = single.model if single.model and single.model != "local" else LOCAL_MODEL if kind == "local" else ""
    if not model:
        raise ConfigError(f"the backend `{kind}` needs a model: add --model NAME")
    url = base_url(single.base_url) if single.base_url else ""
    if kind == "azure_openai":
        url = url or env.get("AZURE_OPENAI_ENDPOINT", "")
    if not url and not TABLE[kind].url and "base_url" in TABLE[kind].takes:
        raise ConfigError(
            f"the backend `{kind}` has an endpoint for each customer: add --base-url, or export AZURE_OPENAI_ENDPOINT"
        )
    key, source = find_key(kind, url, None, env)
    if source and key is None:
        raise ConfigError(no_key(source, model))
    weights = _weights(model, here()) if kind == "local" else None
    try:
        program = installed(kind, None, env)
    except ConfigError as error:
        raise ConfigError(f"--backend {kind}: {error}") from error
    backend = BackendConfig(
        type=kind,
        model=model,
        base_url=url,
        api_key=key,
        key_source=source,
        weights=weights,
        program=program,
        api_version=env.get("AZURE_OPENAI_API_VERSION", "") if kind == "azure_openai" else "",
    )
    return AgentConfig(id=_id(model), backend=backend, system_message=single.system_message)


def _kind(single: Single) -> BackendType:
    """The backend that was named, or the one that the model's name or the URL asks for."""
    if single.backend:
        if single.backend not in BACKENDS:
            raise ConfigError("--backend: " + unknown_backend(single.backend))
        return next(b for b in BACKENDS if b == single.backend)
    if single.base_url:
        return "chatcompletion"
    if single.model.lower() in ("local", LOCAL_MODEL.lower()) or single.model.endswith(".gguf"):
        return "local"
    if known := backend_for(single.model):
        return known
    raise ConfigError(
        f"no backend is known for the model {single.model[:100]!r}{did_you_mean(single.model)} "
        f"(else add --backend TYPE, one of {', '.join(BACKENDS)}, or --base-url URL)"
    )


def _id(model: str) -> str:
    """An agent id made of the model's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.rsplit("/", 1)[-1]).strip("-._")[:63] or "agent"
