"""The first event of a run: what was asked, of whom, with what to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from massgen.config.model import Config
from massgen.context.rules import Rules as ContextRules
from massgen.coordination.shown import Shown
from massgen.events.types import RunStarted


def run_started(
    config: Config, shown: Mapping[Path, Shown], prompt: str, labels: Sequence[str], context: ContextRules
) -> RunStarted:
    """The event; `shown`: everything that any agent is shown."""
    rows = []
    for path, one in shown.items():
        listing = context.listings[path]
        rows.append(
            {
                "path": str(path),
                "permission": "write" if one.mount.mode == "draft" else "read",
                "files": listing.files,
                "bytes": listing.bytes,
                "withheld": len(listing.counted),
                **one.row,
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
        version=our_version(),
        prepared=config.sandbox.prepare,
    )


def our_version() -> str:
    """Of the installed package; empty when it is not installed."""
    with suppress(PackageNotFoundError):
        return version("massgen")
    return ""
