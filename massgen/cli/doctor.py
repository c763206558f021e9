"""`massgen doctor`: is everything there, and do the walls stand."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from massgen.config.paths import Places
    from sandbox import DockerEngine
    from sandbox.guarantees import Guarantee

LEAST_ROOM_BYTES = 1024 * 1024
LEAST_ROOM_FILES = 64
State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    detail: str
    remedy: str = ""


@click.command("doctor")
@click.option("--image", default="", metavar="IMAGE", help="The agents' container image.")
@click.option("--runtime", default="", metavar="NAME", help="Another runtime of the engine, such as runsc.")
@click.option("--json", "as_json", is_flag=True, help="Findings as one JSON object on stdout.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(*, image: str, runtime: str, as_json: bool, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Check engine, image and keys, and prove the isolation guarantees from inside a container.

    Exit code 1 when something failed; each failure comes with what to do. A warning is something that only some runs need.
    A guarantee that is not available is one that runs are safe without; `sandbox.require: [NAME]` in a config insists on it.
    """
    import anyio

    from sandbox.spec import DEFAULT_IMAGE

    findings, guarantees = anyio.run(_all, image or os.environ.get("MASSGEN_IMAGE") or DEFAULT_IMAGE, runtime)
    failed = any(f.state == "failed" for f in findings) or any(g.state == "failed" for g in guarantees)
    if as_json:
        report = {"ok": not failed, "findings": [asdict(f) for f in findings], "guarantees": [asdict(g) for g in guarantees]}
        click.echo(json.dumps(report, indent=2))
    else:
        _show(findings, guarantees)
    return 1 if failed else 0


async def _all(image: str, runtime: str) -> tuple[list[Finding], tuple[Guarantee, ...]]:
    """Keys and weights are looked for in a thread, while a container starts."""
    import anyio
    import anyio.to_thread

    engine: list[Finding] = []
    aside: list[Finding] = []
    guarantees: tuple[Guarantee, ...] = ()

    async def look_aside() -> None:
        aside.extend(await anyio.to_thread.run_sync(_aside))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look_aside)
        engine, guarantees = await _engine(image, runtime)
    return [*engine, *aside], guarantees


def _aside() -> list[Finding]:
    from massgen.config.paths import Places

    places = Places.find(os.environ)
    return [*_models(places), *_programs(), _state(places)]


def _programs() -> list[Finding]:
    """The command lines of others that can be agents."""
    from massgen.config.installed import programs

    rows: list[Finding] = []
    missing: dict[str, str] = {}
    for found in programs(os.environ):
        if found.path:
            rows.append(Finding(name=found.kind, state="ok", detail=f"{found.version or 'unknown version'}, {found.path}"))
        elif found.missing:
            missing[found.kind] = found.why
        else:
            rows.append(Finding(name=found.kind, state="warning", detail=found.why))
    if missing:
        remedy = f"only for agents of these types: {'; '.join(missing.values())}"
        rows.append(Finding(name="CLI agents", state="warning", detail=f"not installed: {', '.join(missing)}", remedy=remedy))
    return rows


async def _engine(image: str, runtime: str) -> tuple[list[Finding], tuple[Guarantee, ...]]:
    """The engine, the image, and what a container of it proves."""
    from massgen.cli.engine import connect
    from massgen.errors import SandboxFailed
    from sandbox import ImageMissing, SandboxError

    install = "install Docker (on Debian and Ubuntu: apt install docker.io), start it, and join the group docker"
    try:
        engine = await connect()
        facts = await engine.facts()
    except (SandboxFailed, SandboxError) as error:
        return [Finding(name="engine", state="failed", detail=str(error).splitlines()[0], remedy=install)], ()
    about = f"{facts.version}, API {facts.api} · Linux {facts.kernel} · cgroup {facts.cgroups}"
    found = [Finding(name="engine", state="ok", detail=about)]
    try:
        await engine.image(image)
        found.append(Finding(name="image", state="ok", detail=image))
        why, guarantees = await _proofs(engine, image, runtime)
        return [*found, _drafts(why)], guarantees
    except ImageMissing:
        remedy = f"`massgen images build` builds ours; docker pull {image}; or name another with --image or MASSGEN_IMAGE"
        return [*found, Finding(name="image", state="failed", detail=f"{image} is not on this engine", remedy=remedy)], ()
    except SandboxError as error:
        name = "image" if len(found) == 1 else "sandbox"
        return [*found, Finding(name=name, state="failed", detail=str(error))], ()


async def _proofs(engine: DockerEngine, image: str, runtime: str) -> tuple[str, tuple[Guarantee, ...]]:
    """Why overlays are not used here (empty: they are), and the guarantees.

    Both take a container, so they are tried at once, the guarantees with an overlay; where there are none, once more without.
    """
    import anyio

    from sandbox import SandboxError
    from sandbox.probe import probe
    from sandbox.views import taken_for_granted, unproven
    from sandbox.waiting import unwrapped

    found: tuple[Guarantee, ...] = ()

    async def with_an_overlay() -> None:
        nonlocal found
        with contextlib.suppress(SandboxError), taken_for_granted():
            found = await probe(engine, image, runtime=runtime)

    with unwrapped(first=True):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(with_an_overlay)
            if why := await unproven(engine, image, runtime):
                tasks.cancel_scope.cancel()
    return why, found if found and not why else await probe(engine, image, runtime=runtime)


def _drafts(why: str) -> Finding:
    """How write paths will be shown, by this engine's self-test of overlays."""
    from sandbox.views import agent_uid

    if why:
        return Finding(name="drafts", state="ok", detail=f"copies in memory, up to sandbox.disk each ({why})")
    if os.getuid() == 0:
        detail = f"overlays of projects of uid {agent_uid()}, copies in memory of root's and all others"
    else:
        detail = "overlays of your own projects, copies in memory of others' and of single files"
    return Finding(name="drafts", state="ok", detail=detail)


def _models(places: Places) -> list[Finding]:
    """Keys by the names of their variables, never their values; the local model's weights."""
    import importlib.util

    from massgen.config.backends import providers, spellings
    from massgen.config.keys import environment
    from massgen.models.pinned import QWEN_CODER, models_folder, usable

    env = environment(os.environ, places)
    none = "export ANTHROPIC_API_KEY or OPENAI_API_KEY, or put it into ./.env; `massgen demo` needs none"
    keys = [
        Finding(name=f"key for {who}", state="ok", detail=f"{env.where(name)} (it stays on this side)")
        for variable, who in providers().items()
        for name in spellings(variable)
        if env.get(name, "").strip()
    ]
    if not keys:
        keys = [Finding(name="keys", state="warning", detail="none is set", remedy=none)]
    weights = models_folder(os.environ) / QWEN_CODER.file_name
    if importlib.util.find_spec("xllamacpp") is None:
        local = Finding(name="local model", state="warning", detail="not installed", remedy="pip install 'massgen[local]'")
    elif not usable(weights):
        local = Finding(name="local model", state="warning", detail="not fetched yet", remedy="massgen demo fetches it")
    else:
        local = Finding(name="local model", state="ok", detail=QWEN_CODER.name)
    return [*keys, local]


def _state(places: Places) -> Finding:
    """Where runs are recorded must be writable and have room, or no run can start."""
    folder = places.state
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        detail, remedy = f"{folder} is no folder", "move it away"
    elif not os.access(folder, os.W_OK | os.X_OK):
        detail, remedy = f"{places.state} cannot be written", f"make {folder} writable"
    elif _full(folder):
        detail, remedy = f"the disk of {places.state} is full", "make room there (massgen gc removes old runs)"
    else:
        return Finding(name="state folder", state="ok", detail=str(places.state))
    return Finding(name="state folder", state="failed", detail=detail, remedy=f"{remedy}, or set XDG_STATE_HOME")


def _full(folder: Path) -> bool:
    """No room for the beginning of a run, in bytes or in files; some file systems count no files."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < LEAST_ROOM_BYTES or (disk.f_files > 0 and disk.f_favail < LEAST_ROOM_FILES)


GROUPS = {"no_network": "what it can reach", "own_uid": "what it may do", "memory_limit": "what it can use up"}
"""Headings, by the first guarantee below each."""
WORDS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "proven": ("proven", "green"),
    "unavailable": ("not available", "yellow"),
    "failed": ("FAILED", "bold red"),
}


def _show(findings: list[Finding], guarantees: tuple[Guarantee, ...]) -> None:
    """Two tables; on a terminal wrapped to its width, elsewhere one line for each row."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, emoji=False)
    first = max(len(f.name) for f in findings)
    if guarantees:
        first = max(first, *(len(g.title) for g in guarantees))
    for f in findings:
        _row(console, f.name, first, state=f.state, detail=f.detail, remedy=f.remedy)
    if not guarantees:
        return
    for g in guarantees:
        if g.name in GROUPS:
            console.print(Text(f"\n{GROUPS[g.name]}", style="bold"))
        remedy = f"{g.remedy} ({g.name})" if g.remedy else ""
        _row(console, g.title, first, state=g.state, detail=g.detail, remedy=remedy)
    count = Counter(g.state for g in guarantees)
    told = f"{count['proven']} proven from inside a container, {count['unavailable']} not available, {count['failed']} failed"
    broken = [f.name for f in findings if f.state == "failed"] + [g.title for g in guarantees if g.state == "failed"]
    console.print(Text.assemble("\n", told, (f"; repair first: {', '.join(broken)}" if broken else "; ready to run", "bold")))


def _row(console: Console, name: str, first: int, *, state: str, detail: str, remedy: str) -> None:
    from rich.text import Text

    from massgen.display.rows import put
    from massgen.display.text import line

    word, style = WORDS[state]
    told = [Text(line(detail), "dim"), *([Text(line(f"→ {remedy}"))] if remedy else [])]
    put(console, Text.assemble(f"{name:<{first}}  ", (f"{word:<13}", style), "  "), *told)
