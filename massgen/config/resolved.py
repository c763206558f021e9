"""The configuration of a run as YAML text for people, without secrets: `config.resolved.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import yaml

from massgen.config.model import AgentConfig, Config, ContextPath

_HIDDEN = "***"
_SECRET_WORDS = ("key", "token", "secret", "password", "auth", "credential")


def resolved_yaml(config: Config) -> str:
    """Every value in effect. Keys appear as the name of where they came from."""
    sandbox = config.sandbox
    data: dict[str, Any] = {
        "agents": [_agent(a) for a in config.agents],
        "orchestrator": {
            "context_paths": [_path(p) for p in config.context_paths],
            "verify": config.verify,
            "write": config.write,
            "coordination": config.coordination.mode,
            **_planning(config.coordination.plan),
            "consensus": config.coordination.consensus,
            "max_debates": config.coordination.max_debates,
            "answer_novelty": config.coordination.answer_novelty,
            "max_new_answers_per_agent": config.coordination.max_new_answers_per_agent,
            "max_new_answers_global": config.coordination.max_new_answers_global,
        },
        "sandbox": {
            "image": sandbox.image,
            "prepare": list(sandbox.prepare),
            "prepare_files": [str(f.path) for f in sandbox.prepare_files],
            "memory": sandbox.limits.memory_bytes,
            "cpus": sandbox.limits.cpus,
            "pids": sandbox.limits.pids,
            "disk": sandbox.limits.workspace_bytes,
            "draft": sandbox.draft,
            **({"runtime": sandbox.runtime} if sandbox.runtime else {}),
            **({"require": list(sandbox.require)} if sandbox.require else {}),
        },
        "timeout_settings": {
            "orchestrator_timeout_seconds": config.timeouts.run_s,
            "agent_timeout_seconds": config.timeouts.agent_s,
            "command_timeout_seconds": sandbox.limits.command_timeout_s,
        },
        "ui": {"display_type": config.ui.display_type, "logging_enabled": config.ui.logging_enabled},
    }
    keys = [a.backend.api_key.reveal() for a in config.agents if a.backend.api_key]
    text = yaml.safe_dump(_without(data, keys), sort_keys=False, allow_unicode=True, width=120)
    origin = config.source or "flags and defaults"
    return f"# from {origin}\n{text}"


def _planning(plan: str | None) -> dict[str, Any]:
    if plan is None:
        return {}
    return {"enable_planning_mode": True, **({"planning_mode_instruction": plan} if plan else {})}


def _agent(agent: AgentConfig) -> dict[str, Any]:
    backend = agent.backend
    shown: dict[str, Any] = {"type": backend.type, "model": backend.model}
    optional = {
        "base_url": backend.base_url,
        "api_key": f"({backend.key_source})" if backend.api_key else "",
        "script": str(backend.script or ""),
        "temperature": backend.temperature,
        "top_p": backend.top_p,
        "max_tokens": backend.max_tokens,
        "api_version": backend.api_version,
        "text": {"verbosity": backend.verbosity} if backend.verbosity else {},
        "reasoning": {k: v for k, v in (("effort", backend.effort), ("summary", backend.summary)) if v},
        "max_thinking_tokens": backend.thinking_tokens,
        "enable_web_search": "web_search" in backend.hosted or None,
        "enable_code_execution": "code_execution" in backend.hosted or None,
        "extra_body": _masked(backend.extra_body),
        **asdict(backend.settings),
        "context_paths": [_path(p) for p in agent.context_paths],
    }
    shown |= {k: v for k, v in optional.items() if v not in (None, "", {}, [], ())}
    return {"id": agent.id, "backend": shown, "system_message": agent.system_message}


def _path(path: ContextPath) -> dict[str, Any]:
    out: dict[str, Any] = {"path": str(path.path), "permission": path.permission}
    return out | ({"protected_paths": [str(p) for p in path.protected_paths]} if path.protected_paths else {})


def _masked(value: object, name: str = "") -> object:
    """`extra_body` is the user's own JSON: what is named like a secret is not shown."""
    if isinstance(value, Mapping):
        return {k: _masked(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_masked(v, name) for v in value]
    return _HIDDEN if isinstance(value, str) and any(w in name.lower() for w in _SECRET_WORDS) else value


def _without(value: object, keys: list[str]) -> object:
    """The same with every occurrence of a key taken out: `${VAR}` may have put it anywhere."""
    if isinstance(value, dict):
        return {_without(k, keys): _without(v, keys) for k, v in value.items()}
    if isinstance(value, list):
        return [_without(v, keys) for v in value]
    if isinstance(value, str):
        for key in keys:
            value = value.replace(key, _HIDDEN)
    return value
