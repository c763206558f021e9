"""A run's configuration as frozen values: complete, checked, with every default filled in.

Whoever holds a `Config` need not look at a file, a flag or the environment again. Keys are `Secret`: they
show themselves to nobody who does not ask with `reveal()`. Untrusted text becomes these values in `load.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from massgen.config.backends import BackendType
from sandbox.spec import DEFAULT_IMAGE, DraftKind, Limits

WriteMode = Literal["apply", "review", "direct", "never"]
WRITE_MODES: tuple[WriteMode, ...] = get_args(WriteMode)

Novelty = Literal["lenient", "balanced", "strict"]
CoordinationMode = Literal["draft", "read_only"]
"""draft: private writable copies. read_only: nobody writes before the final turn."""

Permission = Literal["read", "write"]
DisplayType = Literal["rich_terminal", "terminal", "simple"]

LOCAL_MODEL = "Qwen2.5-Coder-1.5B-Instruct"


class Secret:
    """A key. `str`, `repr`, format and JSON do not show it; `reveal()` does, and is easy to search for."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Secret is not to be pickled or copied out of the process")


@dataclass(frozen=True, kw_only=True)
class ProgramConfig:
    """How a program that is an agent is asked to work; what it may do is decided by its container."""

    system_prompt: str = ""
    """Instead of its own; empty: its own."""
    append_system_prompt: str = ""
    """After its own, or after what stands instead."""
    permission_mode: str = ""
    """By its own name for it; empty: everything is done without asking."""
    allowed_tools: tuple[str, ...] | None = None
    """All that it has of its own tools. None: all of them."""
    disallowed_tools: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """Where an agent's model is and how it is called."""

    type: BackendType
    model: str
    base_url: str = ""
    """Empty: the provider's own. Never ends in `/chat/completions` (taken off) nor in `/`."""
    api_key: Secret | None = None
    """None: none is needed (scripted, local, an endpoint on this machine)."""
    key_source: str = ""
    """Where the key came from: a variable's name, or `config`. Never the key."""
    program: Mapping[str, Path] = field(default_factory=dict)
    """The user's own installed program that is the agent, and what it needs beside itself; empty: the agent is ours."""
    settings: ProgramConfig = ProgramConfig()
    """Of that program."""
    script: Path | None = None
    """The recorded replies of a scripted model; set exactly when `type` is `scripted`."""
    weights: Path | None = None
    """The model file of a `local` backend. None: the one that is pinned."""
    api_version: str = ""
    """Of Azure's API; empty: the current one."""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    verbosity: str | None = None
    effort: str | None = None
    summary: str | None = None
    thinking_tokens: int | None = None
    hosted: frozenset[Literal["web_search", "code_execution"]] = frozenset()
    """Tools that the provider runs itself, asked for in the config."""
    search: Mapping[str, Any] = field(default_factory=dict)
    """`max_results`, `mode`, `citations` of the provider's web search."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the request's JSON as it is."""


@dataclass(frozen=True, kw_only=True)
class ContextPath:
    """One file or folder of the user that agents see. Existing, absolute, resolved, and allowed (see `paths.py`)."""

    path: Path
    permission: Permission = "read"
    protected_paths: tuple[Path, ...] = ()
    """Absolute, below `path`; not changed even by the final agent. They need not exist."""
    typed: str = ""
    """As the user wrote it."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """One agent."""

    id: str
    backend: BackendConfig
    system_message: str = ""
    context_paths: tuple[ContextPath, ...] = ()
    """Read paths that this agent alone sees, beside everyone's (`Config.seen_by`)."""

    @property
    def strategy(self) -> Literal["loop", "repair", "cli"]:
        """How it works: the small pinned model cannot call tools reliably and gets a workflow; `cli` is a program."""
        if self.backend.program:
            return "cli"
        return "repair" if self.backend.type == "local" and self.backend.weights is None else "loop"


@dataclass(frozen=True, kw_only=True)
class CoordinationConfig:
    """Bounds of the coordination. None: unbounded (the run's deadline still holds)."""

    max_new_answers_per_agent: int | None = None
    max_new_answers_global: int | None = None
    answer_novelty: Novelty = "lenient"
    """How different an answer must be from the current ones (`coordination/novelty.py`)."""
    consensus: float = 0.0
    """The share of live agents that must agree, 0 to 1; 0: most votes win."""
    max_debates: int = 1
    """How often all look again because too few agreed."""
    mode: CoordinationMode = "draft"
    """What write paths are to agents before the final turn."""
    plan: str | None = None
    """Planning mode: what agents are told of it; empty: our own words. None: they work as usual."""


@dataclass(frozen=True, kw_only=True)
class PrepareFile:
    """One file that preparing the image needs."""

    name: str
    """Where the commands find it: relative to their working directory."""
    path: Path
    """Absolute, resolved; a regular file."""


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """Where agents run."""

    image: str = DEFAULT_IMAGE
    prepare: tuple[str, ...] = ()
    """Shell commands that make the agents' image from `image`, once and with network. Empty: `image` as it is."""
    prepare_files: tuple[PrepareFile, ...] = ()
    draft: DraftKind = "auto"
    """How write paths become drafts: overlays where they can be, or one kind always (an overlay that cannot be is refused)."""
    limits: Limits = field(default_factory=Limits)
    """`command_timeout_s` in it is `timeout_settings.command_timeout_seconds`."""
    runtime: str = ""
    """Another runtime of the engine (`runsc`); empty: the engine's own choice."""
    require: tuple[str, ...] = ()
    """Guarantees that must be proven before anything starts; names of `sandbox.guarantees.TITLES`."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Deadlines. Commands have theirs in `SandboxConfig.limits`."""

    run_s: float = 1800.0
    """Of the whole run: coordination, final turn and verify."""
    agent_s: float | None = None
    """Of one agent's look. None: only the run's."""


@dataclass(frozen=True, kw_only=True)
class Spending:
    """A cap. None: no limit."""

    cost_usd: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """What a run may cost."""

    run: Spending = Spending()
    agents: Mapping[str, Spending] = field(default_factory=dict)
    """By agent id."""
    prices: Mapping[str, tuple[float, float, float | None]] = field(default_factory=dict)
    """By model: US dollars per million tokens of input, output, cached input."""

    @property
    def capped(self) -> bool:
        """Whether there is any cap on cost."""
        return any(spending.cost_usd is not None for spending in (self.run, *self.agents.values()))


@dataclass(frozen=True, kw_only=True)
class UiConfig:
    """How a run is shown and whether the readable run folder is written."""

    display_type: DisplayType = "rich_terminal"
    logging_enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run needs to know from its user, but the question."""

    agents: tuple[AgentConfig, ...]
    """At least one, ids unique, in registration order."""
    context_paths: tuple[ContextPath, ...] = ()
    """Seen by every agent. Write paths do not overlap each other."""
    write: WriteMode = "review"
    allow: frozenset[str] = frozenset()
    """Classes of files that run by themselves (`coordination/risks.py`) and may be written without asking."""
    verify: str = ""
    """Shell command; empty: none. It runs in the first write path, else the first context path."""
    coordination: CoordinationConfig = field(default_factory=CoordinationConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    timeouts: Timeouts = field(default_factory=Timeouts)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    ui: UiConfig = field(default_factory=UiConfig)
    source: str = ""
    """The config file's path; empty: flags and defaults only."""
    notices: tuple[str, ...] = ()
    """What the user should know before the run: ignored keys, a weakened write mode."""

    @property
    def write_paths(self) -> tuple[ContextPath, ...]:
        """Those that may be written after the vote."""
        return tuple(p for p in self.context_paths if p.permission == "write")

    def seen_by(self, agent: str) -> tuple[ContextPath, ...]:
        """What the container of this agent shows: everyone's paths, then its own."""
        own = next((a.context_paths for a in self.agents if a.id == agent), ())
        return self.context_paths + own

    def agent(self, agent_id: str) -> AgentConfig:
        """The agent of that id; KeyError when there is none."""
        for agent in self.agents:
            if agent.id == agent_id:
                return agent
        raise KeyError(agent_id)
