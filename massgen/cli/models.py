"""`massgen models`: what is configured, whose keys are there, what answers; and `pull`, which fetches a model file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from massgen.config.backends import BackendType
    from massgen.config.keys import Environment
    from massgen.config.model import AgentConfig
    from massgen.models.reach import Place, Reached

SHOWN = 6
"""Names of models in a line; `--json` has all."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One agent, provider or server of this machine."""

    name: str
    backend: str
    model: str
    url: str
    key: str
    """Where the key is, or that it is missing. Never the key."""
    state: str
    detail: str = ""
    models: tuple[str, ...] = ()


@click.group("models", invoke_without_command=True)
@click.option("--config", default="", metavar="FILE", help="Whose agents to list. Default: the config that a run would take.")
@click.option("--offline", is_flag=True, help="Ask no endpoint; say only whose keys are there.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def command(context: click.Context, *, config: str, offline: bool, as_json: bool, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """List models: those of your agents, the providers whose keys you have, and the servers of this machine.

    Every provider with a key, and every server of this machine, is asked for its list of models, which costs nothing.
    """
    if context.invoked_subcommand:
        return 0
    import anyio

    from massgen.config.keys import environment
    from massgen.config.paths import Places
    from massgen.models.reach import reach_all, unasked

    env = environment(os.environ, Places.find(os.environ))
    agents, wrong = _agents(config)
    places = [(agent.id, _of_agent(agent)) for agent in agents if agent.backend.type not in ("local", "scripted")]
    servers = _servers(env)
    asked = [place for _, place in (*places, *servers)]
    found = anyio.run(reach_all, asked) if not offline else [unasked(place) for place in asked]
    rows = [_row(name, place, reached) for (name, place), reached in zip((*places, *servers), found, strict=True)]
    team = rows[: len(places)] + [_inside(agent) for agent in agents if agent.backend.type in ("local", "scripted")]
    rest = [*rows[len(places) :], *_programs(), _local()]
    if as_json:
        report = {"error": wrong, "agents": [asdict(row) for row in team], "providers": [asdict(row) for row in rest]}
        click.echo(json.dumps(report, indent=2))
    else:
        _show(team, rest, wrong)
    return 0


@command.command("pull")
@click.argument("what", default="")
@click.option("--sha256", default="", metavar="HEX", help="What the file's SHA-256 must be; else it is deleted.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def pull(what: str, *, sha256: str, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Fetch a model file, going on where an earlier try ended.

    WHAT is the address of a GGUF file, for `backend: {type: local, model: PATH}`; without it, the model of the backend `local`.
    """
    from massgen.cli.pulling import pull_file

    click.echo(str(pull_file(what, sha256=sha256)))
    return 0


def _agents(config: str) -> tuple[tuple[AgentConfig, ...], str]:
    """The team that a run would have; what is wrong with its config, if anything is."""
    from massgen.config.load import Flags, load
    from massgen.errors import ConfigError

    try:
        return load(Flags(config=config)).agents, ""
    except ConfigError as error:
        if config:
            raise
        return (), "" if str(error).startswith("no agents") else str(error)


def _of_agent(agent: AgentConfig) -> Place:
    from massgen.models.reach import Place

    backend = agent.backend
    return Place(
        backend=backend.type,
        url=backend.base_url,
        key=backend.api_key.reveal() if backend.api_key else "",
        key_source=backend.key_source,
        model=backend.model,
        api_version=backend.api_version,
    )


def _servers(env: Environment) -> list[tuple[str, Place]]:
    """One for each provider, and for each kind of server that people run themselves."""
    from massgen.config.backends import PRESETS, TABLE
    from massgen.config.keys import find_key
    from massgen.models.reach import Place

    found: list[tuple[str, Place]] = []
    rows: list[tuple[str, BackendType, str]] = [
        (kind, kind, env.get("AZURE_OPENAI_ENDPOINT", "") if kind == "azure_openai" else "")
        for kind, row in TABLE.items()
        if row.protocol not in ("embedded", "recorded") and not row.program and kind != "chatcompletion"
    ]
    rows += [(name, "chatcompletion", preset.url) for name, preset in PRESETS.items()]
    for name, backend, url in rows:
        key, source = find_key(backend, url or TABLE[backend].url, None, env)
        found.append((name, Place(backend=backend, url=url, key=key.reveal() if key else "", key_source=source)))
    return found


def _row(name: str, place: Place, reached: Reached) -> Row:
    from massgen.config.backends import TABLE

    key = "needs none" if not place.key_source else place.key_source if place.key else f"{place.key_source} is not set"
    state, detail = str(reached.state), reached.detail
    if place.model and reached.offers(place.model) is False:
        state, detail = "no such model", f"{place.model} is not among the {len(reached.models)} that it offers"
    url = place.url or TABLE[place.backend].url
    if state == "unreachable" and TABLE[place.backend].local and not place.model:
        detail = "nothing answers there"
    return Row(
        name=name,
        backend=place.backend,
        model=place.model,
        url=url,
        key=key,
        state=state,
        detail=detail,
        models=reached.models,
    )


def _inside(agent: AgentConfig) -> Row:
    backend = agent.backend
    state = _local().state if backend.type == "local" else "recorded"
    return Row(name=agent.id, backend=backend.type, model=backend.model, url="", key="needs none", state=state)


def _local() -> Row:
    import importlib.util

    from massgen.models.pinned import QWEN_CODER, models_folder, usable

    folder = models_folder(os.environ)
    state, detail = "ready", ""
    if importlib.util.find_spec("xllamacpp") is None:
        state, detail = "not installed", "pip install 'massgen[local]'"
    elif not usable(folder / QWEN_CODER.file_name):
        state, detail = "not fetched", "massgen models pull"
    files = tuple(sorted(str(path) for path in folder.glob("*.gguf"))) if folder.is_dir() else ()
    return Row(
        name="local", backend="local", model=QWEN_CODER.name, url="", key="needs none", state=state, detail=detail, models=files
    )


def _programs() -> list[Row]:
    """Command lines of others that can be agents; their models are their provider's, with its key."""
    from massgen.config.backends import TABLE
    from massgen.config.installed import programs

    rows: list[Row] = []
    for found in programs(os.environ):
        state = "installed" if found.path else "not installed" if found.missing else "unusable"
        what = f"{TABLE[found.kind].program} {found.version}".strip()
        detail = str(found.path or found.why)
        rows.append(Row(name=found.kind, backend=found.kind, model=what, url="", key="needs none", state=state, detail=detail))
    return rows


_STYLES = {
    "answers": "green",
    "ready": "green",
    "recorded": "green",
    "installed": "green",
    "not installed": "dim",
    "no key": "dim",
    "not asked": "dim",
    "unreachable": "yellow",
}


def _show(team: list[Row], rest: list[Row], wrong: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from massgen.display.rows import put
    from massgen.display.text import line

    console = Console(highlight=False, emoji=False)
    if wrong:
        console.print(Text(f"config  {line(wrong, 400)}", style="yellow"), soft_wrap=True)
    width = max(len(row.name) for row in (*team, *rest))
    for title, rows in (("your agents", team), ("providers and servers", rest)):
        if rows:
            console.print(Text(title, style="bold"))
        for row in rows:
            head = Text.assemble(f"  {row.name:<{width}}  ", (f"{row.state:<13}  ", _STYLES.get(row.state, "red")))
            put(console, head, Text(_told(row, own=row in team)))


def _told(row: Row, *, own: bool) -> str:
    """What is said of a row beside its state: of an agent its model, of a server its address, unless the rest says it."""
    from massgen.display.text import line

    if row.state == "no key":
        return line(row.detail, 240)
    names = ", ".join(line(name.rpartition("/")[2] if name.startswith("/") else name, 40) for name in row.models[:SHOWN])
    more = f" and {len(row.models) - SHOWN} more" if len(row.models) > SHOWN else ""
    told = line(row.detail, 240) or f"{names}{more}"
    address = line(row.url or row.model, 60)
    what = " ".join(dict.fromkeys((row.backend, line(row.model, 60)))).strip() if own else "" if address in told else address
    key = f"key: {row.key}" if row.key != "needs none" else ""
    return " · ".join(part for part in (what, key, told) if part)
