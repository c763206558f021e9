"""From flags, environment and files to one `Config`.

The first that exists is *the* config file: `--config`, else `.massgen/config.yaml` in the working directory
or above it up to the git root, else the user's own. Files are not merged: a team put together from three
places is a team nobody chose. Flags, then `MASSGEN_*`, override single values.

Trust: what lies in a project was written by whoever wrote the project. So a config that was merely *found*
there never applies anything, sees nothing outside the project, and says nothing about keys or endpoints
(an endpoint of its choice would be sent the user's key and files). `--config` is how a user trusts it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from massgen.config.agents import FLAGS_ONLY, Member, Single, team
from massgen.config.keys import environment
from massgen.config.model import (
    AgentConfig,
    BudgetConfig,
    Config,
    ContextPath,
    CoordinationConfig,
    DisplayType,
    SandboxConfig,
    Spending,
    Timeouts,
    UiConfig,
    WriteMode,
)
from massgen.config.paths import Places, context_path, merged, prepare_file, refusal
from massgen.config.schema import RawConfig, RawPath, check, display_types
from massgen.config.shipped import config_path
from massgen.config.sizes import duration_s, limits
from massgen.config.source import Document, Path_, read_document
from massgen.errors import ConfigError
from sandbox.errors import SpecError
from sandbox.gitmask import git_root
from sandbox.guarantees import known
from sandbox.spec import Limits

Origin = Literal["flag", "project", "user", "none"]

VARIABLES = {
    "image": "MASSGEN_IMAGE",
    "verify": "MASSGEN_VERIFY",
    "display": "MASSGEN_DISPLAY",
    "timeout": "MASSGEN_TIMEOUT",
}
"""Flags that may also stand in the environment."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the command line said. None and empty: nothing."""

    config: str = ""
    model: str = ""
    backend: str = ""
    base_url: str = ""
    system_message: str = ""
    agents: tuple[str, ...] = ()
    """Ids of the config's team; without a team, models."""
    models: tuple[str, ...] = ()
    """A team of these, each a model or `backend:model`, instead of the config's."""
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    verify: str = ""
    write_mode: WriteMode | None = None
    allow: tuple[str, ...] = ()
    max_cost_usd: float | None = None
    max_tokens: int | None = None
    timeout: str = ""
    """Seconds, or with a unit: `90`, `10m`, `1h`."""
    image: str = ""
    consensus: float | None = None
    max_debates: int | None = None
    display: str = ""
    logs: bool = True


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What there is to decide from."""

    flags: Flags
    env: Mapping[str, str]
    places: Places
    path: Path | None
    origin: Origin
    document: Document
    raw: RawConfig
    notices: list[str] = field(default_factory=list)


def load(flags: Flags, env: Mapping[str, str] | None = None, *, cwd: Path | None = None) -> Config:
    """The run's configuration. Raises ConfigError; nothing was started and no file written.

    `env` None: the process's own. `.env` files are read on top of it (`keys.py`).
    """
    own = os.environ if env is None else env
    places = Places.find(own, cwd=cwd)
    full = environment(own, places)
    said = {n: full[v] for n, v in VARIABLES.items() if full.get(v) and not getattr(flags, n)}
    flags = replace(flags, **said)  # type: ignore[arg-type]
    path, origin = find_config(flags.config, places)
    document = Document(name=FLAGS_ONLY, data={})
    if path is not None:
        document = read_document(path, None if origin == "project" else full, name=_shown(path, places))
    found = _Found(flags=flags, env=full, places=places, path=path, origin=origin, document=document, raw=check(document))
    if origin == "project":
        _require_modest(document)
    return _config(found)


def _shown(path: Path, places: Places) -> str:
    return str(path.relative_to(places.cwd)) if path.is_relative_to(places.cwd) else str(path)


def find_config(given: str, places: Places) -> tuple[Path | None, Origin]:
    """The config file and who chose it."""
    if given:
        return config_path(given, places.cwd), "flag"
    root = git_root(places.cwd) or places.cwd
    for folder in (places.cwd, *places.cwd.parents):
        candidate = folder / ".massgen" / "config.yaml"
        if candidate.is_file() and folder != places.home:
            return candidate, "project"
        if folder == root:
            break
    own = places.user_config / "config.yaml"
    return (own, "user") if own.is_file() else (None, "none")


def _config(found: _Found) -> Config:
    raw, flags = found.raw, found.flags
    single = Single(model=flags.model, backend=flags.backend, base_url=flags.base_url, system_message=flags.system_message)
    folder = found.path.parent if found.path else found.places.cwd
    members = team(
        single,
        found.document,
        raw,
        folder=folder,
        env=found.env,
        notices=found.notices,
        only=flags.agents,
        models=flags.models,
    )
    if found.origin == "project":
        named = [path for m in members for path in (m.agent.backend.script, m.agent.backend.weights) if path]
        _require_below(found, named)
    shared, is_default = _shared_paths(found, members)
    agents = tuple(_with_own_paths(found, m, shared, alone=len(members) == 1) for m in members)
    for key in ("snapshot_storage", "agent_temporary_workspace"):
        if getattr(raw.orchestrator, key) is not None:
            found.notices.append(f"`orchestrator.{key}` is ignored: this version does not export workspaces")
    run_s = duration_s(flags.timeout) if flags.timeout else raw.timeout_settings.orchestrator_timeout_seconds
    display = flags.display or raw.ui.display_type
    if display not in display_types():
        raise ConfigError(f"display {display[:40]!r} is unknown; use one of {', '.join(display_types())}")
    return Config(
        agents=agents,
        context_paths=shared,
        write=_write_mode(found, shared, is_default=is_default),
        allow=frozenset(flags.allow),
        budget=_budget(found, agents),
        verify=flags.verify or raw.orchestrator.verify,
        coordination=_coordination(found, agents),
        sandbox=_sandbox(found),
        timeouts=Timeouts(run_s=run_s or Timeouts().run_s, agent_s=raw.timeout_settings.agent_timeout_seconds),
        ui=UiConfig(display_type=cast("DisplayType", display), logging_enabled=raw.ui.logging_enabled and flags.logs),
        source=str(found.path) if found.path else "",
        notices=tuple(dict.fromkeys(found.notices)),
    )


def _coordination(found: _Found, agents: tuple[AgentConfig, ...]) -> CoordinationConfig:
    raw, flags = found.raw.orchestrator, found.flags
    small = [agent.id for agent in agents if agent.strategy == "repair"]
    if raw.enable_planning_mode and raw.coordination == "draft":
        raise found.document.error(
            ("orchestrator", "coordination"),
            "draft contradicts enable_planning_mode, in which nothing is changed before the final turn; take one of the two out",
        )
    mode = raw.coordination or ("read_only" if raw.enable_planning_mode else "draft")
    if mode == "read_only" and small:
        key = "enable_planning_mode" if raw.coordination is None else "coordination"
        raise found.document.error(
            ("orchestrator", key),
            f"read_only is not for the backend `local` (agent {small[0]}): it works on drafts; use draft",
        )
    return CoordinationConfig(
        max_new_answers_per_agent=raw.max_new_answers_per_agent,
        max_new_answers_global=raw.max_new_answers_global,
        answer_novelty=raw.answer_novelty,
        consensus=raw.consensus if flags.consensus is None else flags.consensus,
        max_debates=raw.max_debates if flags.max_debates is None else flags.max_debates,
        mode=mode,
        plan=raw.planning_mode_instruction.strip() if raw.enable_planning_mode else None,
    )


def _budget(found: _Found, agents: tuple[AgentConfig, ...]) -> BudgetConfig:
    raw, flags = found.raw.budget, found.flags
    ids = [agent.id for agent in agents]
    for name in raw.per_agent:
        if name not in ids:
            raise found.document.error(("budget", "per_agent", name), f"no agent has this id; the agents are {', '.join(ids)}")
    run = Spending(
        cost_usd=raw.max_cost_usd if flags.max_cost_usd is None else flags.max_cost_usd,
        tokens=raw.max_tokens if flags.max_tokens is None else flags.max_tokens,
    )
    budget = BudgetConfig(
        run=run,
        agents={name: Spending(cost_usd=one.max_cost_usd, tokens=one.max_tokens) for name, one in raw.per_agent.items()},
        prices={model: (price.input, price.output, price.cached) for model, price in raw.prices.items()},
    )
    if budget.capped and (users := [agent.id for agent in agents if agent.backend.hosted]):
        found.notices.append(
            f"the cap on cost is one of tokens: what providers take for searches of {', '.join(users)} is not in it"
        )
    return budget


def _shared_paths(found: _Found, members: tuple[Member, ...]) -> tuple[tuple[ContextPath, ...], bool]:
    """Everyone's context paths, and whether they are the default view (the git tree one stands in)."""
    places, raw = found.places, found.raw
    flagged = [context_path(p, "read", (), places) for p in found.flags.read]
    flagged += [context_path(p, "write", (), places) for p in found.flags.write]
    listed = _listed(found, ("orchestrator", "context_paths"), raw.orchestrator.context_paths or ())
    if len(members) == 1:
        listed += _listed(found, members[0].at, members[0].raw_paths)
    shared = merged([*listed, *flagged])
    if shared or raw.orchestrator.context_paths is not None or any(m.raw_paths for m in members):
        return shared, False
    root = git_root(places.cwd)
    if root is None:
        return (), False
    why = refusal(root.resolve(), places)
    if why:
        found.notices.append(f"agents see no files: the git tree here, {root}, is not shown ({why}); use --read or --write")
        return (), False
    return (context_path(str(root), "write", (), places),), True


def _listed(found: _Found, at: Path_, items: Sequence[RawPath]) -> list[ContextPath]:
    """Entries of a `context_paths` list, checked; faults name their line."""
    out = []
    for index, item in enumerate(items):
        try:
            out.append(context_path(item.path, item.permission, item.protected_paths, found.places))
        except ConfigError as error:
            raise found.document.error((*at, index), str(error)) from error
    if found.origin == "project":
        _require_below(found, [p.path for p in out])
    return out


def _with_own_paths(found: _Found, member: Member, shared: tuple[ContextPath, ...], *, alone: bool) -> AgentConfig:
    """The agent with the read paths that only it sees; an only agent's are the shared ones."""
    if alone or not member.raw_paths:
        return member.agent
    for index, item in enumerate(member.raw_paths):
        if item.permission == "write":
            raise found.document.error(
                (*member.at, index, "permission"),
                "write paths must stand in orchestrator.context_paths: all answers and verify are about the same files",
            )
    both = merged([*shared, *_listed(found, member.at, member.raw_paths)])
    return replace(member.agent, context_paths=tuple(p for p in both if p not in shared))


def _write_mode(found: _Found, shared: tuple[ContextPath, ...], *, is_default: bool) -> WriteMode:
    """How the result reaches the project: `review` unless the user said otherwise in so many words."""
    asked, configured = found.flags.write_mode, found.raw.orchestrator.write
    if not any(p.permission == "write" for p in shared):
        if asked in ("apply", "direct"):
            raise ConfigError(f"nothing to {'apply to' if asked == 'apply' else 'write'}: add --write PATH")
        return "never"
    if asked:
        return asked
    if found.origin == "flag":
        return configured or ("review" if is_default else "apply")
    if configured in ("apply", "direct"):
        found.notices.append(
            f"`write: {configured}` of {found.document.name} is taken as review: only --config FILE or --apply may write unasked"
        )
        return "review"
    return configured or "review"


def _sandbox(found: _Found) -> SandboxConfig:
    raw = found.raw.sandbox
    if raw.runtime and found.origin == "project":
        raise found.document.error(
            ("sandbox", "runtime"),
            f"a config found in the project may not choose the runtime; trust it with --config {found.document.name}",
        )
    for index, name in enumerate(raw.require):
        try:
            known(name)
        except SpecError as error:
            raise found.document.error(("sandbox", "require", index), str(error)) from error
    files = []
    for index, typed in enumerate(raw.prepare_files):
        try:
            files.append(prepare_file(typed, found.places))
        except ConfigError as error:
            raise found.document.error(("sandbox", "prepare_files", index), str(error)) from error
    if files and not raw.prepare:
        raise found.document.error(("sandbox", "prepare_files"), "needs `sandbox.prepare`: the commands that use these files")
    names = [f.name for f in files]
    if len(set(names)) < len(names):
        raise found.document.error(("sandbox", "prepare_files"), "names the same file twice")
    return SandboxConfig(
        image=found.flags.image or raw.image or SandboxConfig().image,
        prepare=tuple(raw.prepare),
        prepare_files=tuple(files),
        draft=raw.draft,
        limits=_limits(found),
        runtime=raw.runtime or "",
        require=tuple(dict.fromkeys(raw.require)),
    )


def _limits(found: _Found) -> Limits:
    out = limits(found.document, found.raw.sandbox, found.raw.timeout_settings.command_timeout_seconds)
    if found.origin != "project":
        return out
    least = Limits()
    for key, name in (("memory", "memory_bytes"), ("cpus", "cpus"), ("pids", "pids"), ("disk", "workspace_bytes")):
        if getattr(out, name) > getattr(least, name):
            raise found.document.error(
                ("sandbox", key),
                f"a config found in the project may only lower limits; trust it with --config {found.document.name}",
            )
    return out


def _require_modest(document: Document) -> None:
    """Raises ConfigError when a merely found config speaks about keys, endpoints, request bodies, programs, or preparing."""
    agents = document.data.get("agents") or [document.data.get("agent")]
    holders: list[tuple[Path_, object]] = [(("backend_params",), document.data.get("backend_params"))]
    for index, agent in enumerate(agents):
        at: Path_ = ("agents", index) if "agents" in document.data else ("agent",)
        holders.append(((*at, "backend"), agent.get("backend") if isinstance(agent, dict) else None))
    sandbox = document.data.get("sandbox")
    for at, holder in [*holders, (("sandbox",), sandbox)]:
        for key in (
            ("prepare", "prepare_files") if holder is sandbox else ("base_url", "allow_http", "api_key", "extra_body", "command")
        ):
            if isinstance(holder, dict) and key in holder:
                raise document.error(
                    (*at, key), f"a config found in the project may not set this; trust it with --config {document.name}"
                )


def _require_below(found: _Found, paths: Sequence[Path]) -> None:
    """Raises ConfigError when a merely found config names something outside its project."""
    assert found.path is not None  # noqa: S101  (origin is "project": there is a file)
    project = found.path.parent.parent.resolve()
    for path in paths:
        if not path.is_relative_to(project):
            raise ConfigError(
                f"{found.document.name}: {path} lies outside the project; trust this config with --config {found.document.name}"
            )
