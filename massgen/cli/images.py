"""`massgen images`: build the agents' images, see what of ours lies on the engine, remove what nobody needs any more.

Building is a shell script, the one that scripts/bootstrap runs before there is a Python to run anything else.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sandbox.engines.images import ImageRow

DAY_S = 86400.0
VARIANTS = ("python", "node", "build")


@click.group("images")
def command() -> None:
    """The agents' images, and those that `sandbox.prepare` made. Never touches any other."""


@command.command("build")
@click.argument("variants", nargs=-1, type=click.Choice(VARIANTS), metavar="[VARIANT]…")
@click.option(
    "--base",
    metavar="IMAGE",
    help="Build on this image of Debian or Ubuntu. [default: a registry's, else this machine's packages]",
)
@click.option("--tag", metavar="NAME", help="Give the image this name, and leave massgen-agent as it is. For one variant.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def build(*, variants: tuple[str, ...], base: str | None, tag: str | None, debug: bool) -> int:  # noqa: ARG001
    """Build what is not there yet, and print its name.

    \b
    python  massgen-agent:latest  python3, pip, pytest, git, ripgrep (the default)
    node    massgen-agent:node    with nodejs, npm
    build   massgen-agent:build   with gcc, g++, make, cmake, pkg-config, headers

    Where no registry answers, the base is made from the package sources of this machine (Debian or Ubuntu) by mmdebstrap,
    which is installed when it is missing.
    """  # noqa: D301  (click wants the character itself)
    if tag and len(variants) > 1:
        raise click.UsageError("--tag is one name; give one variant")
    bash = shutil.which("bash")
    if bash is None:
        raise click.ClickException("there is no bash on this machine; the build is a script of it")
    if base:
        os.environ["MASSGEN_BASE"] = base
    # In our place: signals, the terminal and the exit code are the script's own.
    os.execv(bash, [bash, str(_script()), *(("--tag", tag) if tag else ()), "--", *(variants or VARIANTS[:1])])  # noqa: S606


def _script() -> Path:
    package = Path(__file__).resolve().parents[1]
    shipped = package / "scripts" / "images"
    return shipped if shipped.exists() else package.parent / "scripts" / "images"


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def list_images(*, as_json: bool, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Every image of ours.

    Its name, size and age, what it was made from, whether a container uses it.
    """
    import anyio

    from massgen.cli.engine import connect, translated

    async def rows() -> tuple[ImageRow, ...]:
        with translated():
            return await (await connect()).images().ours()

    _show(anyio.run(rows), as_json=as_json)
    return 0


@command.command("prune")
@click.option(
    "--days", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="DAYS", help="Unused for at least so long."
)
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def prune(*, days: float, dry_run: bool, as_json: bool, debug: bool) -> int:  # noqa: ARG001
    """Remove prepared images that no run uses any more.

    Those that none has used for some time; what a container uses stays.
    """
    import anyio

    from massgen.cli.engine import connect, translated
    from sandbox.prepare import forget

    async def rows() -> tuple[ImageRow, ...]:
        with translated():
            return await forget(await connect(), unused_s=days * DAY_S, now=time.time(), dry_run=dry_run)

    gone = anyio.run(rows)
    _show(gone, as_json=as_json)
    if not as_json:
        click.echo(f"{len(gone)} {'image' if len(gone) == 1 else 'images'} {'would go' if dry_run else 'removed'}", err=True)
    return 0


def _show(rows: tuple[ImageRow, ...], *, as_json: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from massgen.display.rows import put
    from massgen.display.text import bytes_text, duration_text, line
    from sandbox.engines.images import BASE_LABEL
    from sandbox.prepare import last_used

    now = time.time()
    if as_json:
        data = [
            {
                "id": row.id,
                "tags": list(row.tags),
                "size_bytes": row.size_bytes,
                "created": row.created,
                "last_used": max([0.0, *map(last_used, row.tags)]) or None,
                "prepared_from": row.labels.get(BASE_LABEL, ""),
                "in_use": row.in_use,
            }
            for row in rows
        ]
        click.echo(json.dumps(data, indent=2))
        return
    console = Console(highlight=False, emoji=False)
    width = max((len(tag) for row in rows for tag in row.tags[:1]), default=12)
    for row in sorted(rows, key=lambda r: -r.created):
        name, *aliases = row.tags or (row.id.removeprefix("sha256:")[:12],)
        age = duration_text(max(now - row.created, 0.0))
        base = line(row.labels.get(BASE_LABEL, "?"), 60)
        head = f"{name:<{width}}  {bytes_text(row.size_bytes):>9}"
        told = f"{age} old, from {base}" + (", in use" if row.in_use else "") + "".join(f", also {a}" for a in aliases)
        put(console, Text(f"{head}  "), Text(told))
