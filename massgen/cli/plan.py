"""`--dry-run`: who would run, what they would see, what is withheld. No container, no model call, nothing written."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from massgen.cli.running import limits_text
from massgen.config.model import Config
from massgen.context.rules import Rules, rules_for
from massgen.context.withheld import Listing, Withheld
from massgen.coordination.shown import foreseen
from massgen.display.paths import copy_reason, git_reason, kind_text
from massgen.display.rows import put
from massgen.display.text import bytes_text, count, duration_text, line
from massgen.errors import ConfigError
from sandbox import SpecError

MAX_LISTED = 200

Rows = Mapping[Path, Mapping[str, Any]]
"""How each path is shown: `draft`, `git`, and why."""


def show_plan(config: Config, *, as_json: bool) -> int:
    """Print the plan on stdout. Raises ConfigError for paths that a run would refuse, too. Returns 0."""
    paths = [*config.context_paths, *(p for a in config.agents for p in a.context_paths)]
    rules = rules_for(paths)
    try:
        rows = {path.path: foreseen(path, rules, draft=config.sandbox.draft).row for path in paths}
    except SpecError as error:
        raise ConfigError(str(error)) from error
    plan = _plan(config, rules, rows)
    if as_json:
        sys.stdout.write(json.dumps(plan, indent=2) + "\n")
        return 0
    console = Console(highlight=False, emoji=False)
    for word, text in _lines(config, rules, rows):
        put(console, Text(f"{word:<9}", "bold"), Text(text))
    return 0


def _plan(config: Config, rules: Rules, rows: Rows) -> dict[str, object]:
    return {
        "agents": [
            {"id": a.id, "backend": a.backend.type, "model": a.backend.model, "key": a.backend.key_source} for a in config.agents
        ],
        "image": config.sandbox.image,
        "prepare": list(config.sandbox.prepare),
        "prepare_files": [str(f.path) for f in config.sandbox.prepare_files],
        "memory_bytes": config.sandbox.limits.memory_bytes,
        "cpus": config.sandbox.limits.cpus,
        "network": "none",
        "write": config.write,
        "verify": config.verify,
        "timeout_seconds": config.timeouts.run_s,
        "context": [
            {
                "path": str(path),
                "mode": mode,
                "seen_by": who,
                "files": rules.listings[path].files,
                "bytes": rules.listings[path].bytes,
                "withheld": [{"path": w.path, "reason": w.reason} for w in _withheld(rules.listings[path], rows[path])],
                "brought_back": list(rules.listings[path].brought_back),
                **rows[path],
            }
            for path, mode, who in _mounts(config)
        ],
        "notices": list(config.notices),
    }


def _withheld(found: Listing, row: Mapping[str, Any]) -> list[Withheld]:
    """What is not shown; of a repository that is shown in part the row says which."""
    return [w for w in found.withheld if w.path != ".git" or row.get("git") == "hide"]


def _mounts(config: Config) -> list[tuple[Path, str, str]]:
    shared = [(p.path, "draft" if p.permission == "write" else "ro", "all") for p in config.context_paths]
    own = [(p.path, "ro", a.id) for a in config.agents for p in a.context_paths]
    return [*shared, *own]


def _lines(config: Config, rules: Rules, rows: Rows) -> list[tuple[str, str]]:
    out = [("notice", line(n)) for n in config.notices]
    out += [("config", line(config.source or "flags and defaults"))]
    for agent in config.agents:
        key = f" · key from {agent.backend.key_source}" if agent.backend.api_key else " · no key"
        where = f" · {line(agent.backend.base_url, 80)}" if agent.backend.base_url else ""
        out.append(("agent", f"{agent.id} · {agent.backend.type} · {line(agent.backend.model, 60)}{where}{key}"))
    out.append(("sandbox", f"{config.sandbox.image} · {limits_text(config)} each · no network"))
    if config.sandbox.prepare:
        out.append(("prepare", f"network used once to prepare the image: {line('; '.join(config.sandbox.prepare))}"))
        out += [("", f"from {line(str(f.path))}") for f in config.sandbox.prepare_files]
    for path, mode, who in _mounts(config):
        found = rules.listings[path]
        only = "" if who == "all" else f" · only {who}"
        out.append(("mount", f"{mode:<6}{line(str(path))} · {count(found.files, 'file')}, {bytes_text(found.bytes)}{only}"))
        out += [("", text) for text in (kind_text(rows[path]), copy_reason(rows[path]), git_reason(rows[path])) if text]
        hidden = _withheld(found, rows[path])
        out += [("withheld", f"{w.reason:<11}{line(w.path)}") for w in hidden[:MAX_LISTED]]
        if len(hidden) > MAX_LISTED:
            out.append(("", f"and {len(hidden) - MAX_LISTED} more (--json lists all)"))
        out += [("shown", f"secret-like, by .massgeninclude: {line(p)}") for p in found.brought_back[:MAX_LISTED]]
    if not _mounts(config):
        out.append(("mount", "none: the agents see only their own workspace"))
    out.append(("verify", line(config.verify) or "none"))
    out.append(("write", f"{config.write} · at most {duration_text(config.timeouts.run_s)}"))
    return out
