"""The first event of a run: what was asked, of whom, with what to see."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from massgen.config.model import Config, ContextPath
from massgen.context.rules import Rules as ContextRules
from massgen.events.types import RunStarted


def run_started(
    config: Config, paths: Sequence[ContextPath], prompt: str, labels: Sequence[str], context: ContextRules
) -> RunStarted:
    """The event; `paths`: everything that any agent is shown."""
    rows = []
    for path in paths:
        listing = context.listings[path.path]
        rows.append(
            {
                "path": str(path.path),
                "permission": path.permission,
                "files": listing.files,
                "bytes": listing.bytes,
                "withheld": len(listing.counted),
            }
        )
    return RunStarted(
        prompt=prompt,
        agents=tuple(
            {"id": agent.id, "label": label, "model": agent.backend.model, "backend": agent.backend.type}
            for agent, label in zip(config.agents, labels, strict=True)
        ),
        write_mode=config.write,
        context=tuple(rows),
        image=config.sandbox.image,
        verify=config.verify,
        version=_version(),
        prepared=config.sandbox.prepare,
    )


def _version() -> str:
    with suppress(PackageNotFoundError):
        return version("massgen")
    return ""
