"""The team: from `agent:`/`agents:`, or from `--model` and its companions, to `AgentConfig` values with keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from massgen.config.keys import base_url, find_key
from massgen.config.model import BACKENDS, LOCAL_MODEL, AgentConfig, BackendConfig, BackendType
from massgen.config.schema import RawAgent, RawBackend, RawConfig, RawParams, RawPath, check_backend_type, unknown_backend
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
    single: Single, document: Document, raw: RawConfig, *, folder: Path, env: Mapping[str, str], notices: list[str]
) -> tuple[Member, ...]:
    """The agents in registration order. Appends to `notices`. Raises ConfigError.

    `folder` is where the config file lies: `script` is relative to it, being part of the config.
    """
    if single:
        return (Member(agent=_from_flags(single, env)),)
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
    return tuple(out)


def _backend(
    document: Document, at: Path_, raw: RawBackend, *, params: RawParams, folder: Path, env: Mapping[str, str]
) -> BackendConfig:
    check_backend_type(document, (*at, "type"), raw.type)
    kind: BackendType = next(b for b in BACKENDS if b == raw.type)
    for key, kinds in _ONLY_FOR.items():
        if getattr(raw, key) is not None and kind not in kinds:
            raise document.error((*at, key), f"is not for the backend `{kind}` (only {', '.join(kinds)}); remove it")
    model = raw.model or {"local": LOCAL_MODEL, "scripted": "scripted"}.get(kind, "")
    if not model:
        raise document.error(at, f"needs the key `model` (the backend `{kind}` has no default)")
    try:
        url = base_url(raw.base_url) if raw.base_url is not None else ""
    except ConfigError as error:
        raise document.error((*at, "base_url"), str(error)) from error
    secret, source = find_key(kind, url, raw.api_key, env)
    if source and secret is None:
        raise document.error(at, _no_key(source, model))
    temperature = raw.temperature if raw.temperature is not None else params.temperature
    body = raw.extra_body if raw.extra_body is not None else params.extra_body
    return BackendConfig(
        type=kind,
        model=model,
        base_url=url,
        api_key=secret,
        key_source=source,
        script=_script(document, at, raw, folder) if kind == "scripted" else None,
        temperature=None if kind == "claude" else temperature,
        max_tokens=raw.max_tokens if raw.max_tokens is not None else params.max_tokens,
        extra_body=dict(body or {}) if kind in _ONLY_FOR["extra_body"] else {},
    )


def _ignored(raw: RawBackend, params: RawParams) -> list[str]:
    """What is accepted without effect, to be said once."""
    out = []
    if raw.type == "claude" and (raw.temperature is not None or params.temperature is not None):
        out.append("`temperature` is ignored for claude: the provider no longer takes it")
    if raw.cwd is not None:
        out.append("`cwd` is ignored: an agent's workspace lives in its container (/workspace) and ends with it")
    return out


_ONLY_FOR = {
    "script": ("scripted",),
    "extra_body": ("chatcompletion", "claude"),
    "base_url": ("chatcompletion", "claude"),
    "api_key": ("chatcompletion", "claude"),
}


def _no_key(variable: str, model: str) -> str:
    return f"no key for `{model}`: export {variable}, or put `{variable}=…` into ./.env, or set `api_key: ${{VARIABLE}}`"


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
    key, source = find_key(kind, url, None, env)
    if source and key is None:
        raise ConfigError(f"no key for `{model}`: export {source}, or put `{source}=…` into ./.env")
    backend = BackendConfig(type=kind, model=model, base_url=url, api_key=key, key_source=source)
    return AgentConfig(id=_id(model), backend=backend, system_message=single.system_message)


def _kind(single: Single) -> BackendType:
    """The backend that was named, or the one that the model's name or the URL asks for."""
    if single.backend:
        if single.backend not in BACKENDS:
            raise ConfigError("--backend: " + unknown_backend(single.backend))
        return next(b for b in BACKENDS if b == single.backend)
    if single.base_url:
        return "chatcompletion"
    name = single.model.lower()
    if name.startswith("claude"):
        return "claude"
    if name in ("local", LOCAL_MODEL.lower()):
        return "local"
    if re.match(r"(gpt-|chatgpt-|o\d)", name):
        return "chatcompletion"
    raise ConfigError(f"no backend is known for the model {single.model!r}; add --backend ({', '.join(BACKENDS)}) or --base-url")


def _id(model: str) -> str:
    """An agent id made of the model's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.rsplit("/", 1)[-1]).strip("-._")[:63] or "agent"
