"""`massgen demo`: the main job on a small project, with a local model or recorded replies."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = "massgen-demo"


@click.command("demo")
@click.option("--scripted", is_flag=True, help="Recorded replies instead of a model: takes seconds, downloads nothing.")
@click.option("--keep", default="", metavar="DIR", help=f"Where the project is copied to. Default: ./{FOLDER}.")
@click.option("--image", default="", metavar="IMAGE", help="The agents' container image.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(*, scripted: bool, keep: str, image: str, debug: bool) -> int:
    """See the main job: two agents, each in its own container, fix a real bug, vote; the winner's fix is written.

    Works on a copy of a small project that is yours to look at afterwards. Needs no key.
    """
    from massgen.cli import demo_copy
    from massgen.cli.running import Options, run, stderr_console
    from massgen.config.load import Flags, load
    from massgen.config.paths import here

    folder = demo_copy.place(Path(keep).expanduser() if keep else here() / FOLDER)
    flags = Flags(config=str(demo_copy.team(scripted=scripted)), write=(str(folder),), image=image)
    config = load(flags)
    console = stderr_console(config)
    _introduce(console, folder, scripted=scripted)
    if not scripted:
        _fetch_model(console)
    try:
        result = run(config, demo_copy.TASK, Options(folder_base=folder, debug=debug), flags)
    finally:
        demo_copy.leave(folder)
    _conclude(console, folder, result.run_id, written=result.outcome == "applied")
    return result.exit_code


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _introduce(console: Console, folder: Path, *, scripted: bool) -> None:
    from rich.text import Text

    from massgen.cli.running import shown
    from massgen.display.rows import put

    who = "scripted replies, no model; all else is real" if scripted else "a small local model, no key"
    _say(console, f"A small project with a real bug and failing tests: {shown(folder)}/", "bold")
    put(
        console,
        Text(),
        Text(f"Two agents ({who}) get a container each: no network, no key, a private draft of the project."),
        Text("They share answers and vote. Only then is there one write mount, for the winner's change.\n"),
    )


def _fetch_model(console: Console) -> None:
    """The weights, when they are not here yet; says what it fetches, from where, and under which licence."""
    from massgen.models.pinned import models_folder
    from massgen.models.weights import fetch

    fetch(models_folder(os.environ), say=lambda text: _say(console, text, "dim"))


def _conclude(console: Console, folder: Path, run_id: str, *, written: bool) -> None:
    from massgen.app import diff_run
    from massgen.cli.diff import print_patch
    from massgen.cli.running import shown
    from massgen.config.paths import Places
    from massgen.errors import ConfigError

    try:
        patch = diff_run(Places.find(os.environ).state, run_id)
    except ConfigError:  # nobody had a result
        patch = ""
    if patch:
        _say(console, "\nThe change" + (", now in the project:" if written else ", not written:"), "bold")
        print_patch(patch, console)
    place = shown(folder)
    _say(console, "\nLook at it:", "bold")
    massgen = _typed()
    tests = f"cd {place} && {massgen} exec -- python3 -m pytest -q"
    _say(console, f"  {tests}   the tests, in a container")
    if written:
        _say(console, f"  {f'{massgen} undo':<{len(tests)}}   take it back")
    _say(console, "Then on a project of yours (nothing is written before you say `massgen apply`):", "bold")
    _say(console, f'  cd your-project && {massgen} --model M "fix the failing test" --verify "python3 -m pytest -q"')


def _typed() -> str:
    """What a user types to get this program: scripts/demo runs it from an environment that no shell knows."""
    if shutil.which("massgen"):
        return "massgen"
    called = Path(sys.argv[0]).absolute()
    return str(called) if called.name == "massgen" else f"{sys.executable} -m massgen"
