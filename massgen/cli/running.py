"""A run as the command line sees it: readers in, answer and exit code out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from rich.console import Console
from rich.text import Text

from massgen.config.load import Flags, load
from massgen.config.model import Config
from massgen.config.paths import Places
from massgen.config.resolved import resolved_yaml
from massgen.display.plain import Progress
from massgen.display.runfolder import RunFolder, make_folder
from massgen.display.story import Story
from massgen.display.summary import show
from massgen.display.text import block, bytes_text, line
from massgen.errors import ConfigError
from massgen.events.codec import Envelope, encode

if TYPE_CHECKING:
    from massgen.app import RunResult

Reader = Callable[[Envelope], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line wants to see of a run."""

    as_json: bool = False
    show: bool = True
    dry_run: bool = False
    debug: bool = False
    run_dir: Path | None = None
    folder_base: Path | None = None
    """Below which `.massgen` is made. None: the working directory."""


def run_command(prompt: str, flags: Flags, options: Options) -> int:
    """Load, run, show. Returns the exit code; raises MassgenError for what stopped it before it began."""
    config = load(flags)
    if options.dry_run:
        from massgen.cli.plan import show_plan

        return show_plan(config, as_json=options.as_json)
    return run(config, prompt, options).exit_code


def run(config: Config, prompt: str, options: Options) -> RunResult:
    """One run with its displays."""
    from massgen.app import run as run_app
    from massgen.cli.engine import connect

    console = stderr_console(config)
    story = Story()
    readers: list[Reader] = [story.feed]
    folder = _folder(config, options)
    if folder:
        readers.append(folder)
    if options.as_json:
        readers.append(_write_json)
    elif options.show:
        readers.append(Progress(console, limits=limits_text(config)))
    state = Places.find(os.environ).state

    def say(text: str) -> None:
        if options.show:
            console.print(Text.assemble(("image  ", "bold"), (line(text, 200), "dim")), soft_wrap=True)

    async def work() -> RunResult:
        return await run_app(config, prompt, engine=await connect(), readers=readers, state_dir=state, say=say)

    result = anyio.run(work)
    if folder:
        _add_patch(folder, state, result, console)
    if not options.as_json:
        _tell(result, story, options, console, shown(folder.made) if folder and folder.made else "")
    return result


def _tell(result: RunResult, story: Story, options: Options, console: Console, log: str) -> None:
    """The end of a run for people; who wants no progress still wants to know why it failed."""
    if options.show:
        show(story, console, log=log)
    elif result.exit_code and result.message:
        console.print(line(result.message), soft_wrap=True, markup=False)
    say_answer(result.answer)


class _Patient(Console):
    """Nobody reads any more: be silent. Rich would end the program, in the middle of a run that has a result to save."""

    def on_broken_pipe(self) -> None:
        """The reader of our progress left."""
        self.quiet = True
        _discard(2)


def _discard(fd: int) -> None:
    """From here on what is written there goes nowhere, and nothing complains at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)


def stderr_console(config: Config) -> Console:
    """For progress. NO_COLOR, FORCE_COLOR and TERM=dumb are rich's business."""
    simple = config.ui.display_type == "simple"
    return _Patient(stderr=True, no_color=True if simple else None, highlight=False, emoji=False)


def limits_text(config: Config) -> str:
    """`2 cpu, 4.0 GiB`."""
    limits = config.sandbox.limits
    return f"{limits.cpus:g} cpu, {bytes_text(limits.memory_bytes)}"


def shown(path: Path) -> str:
    """The path as a user would type it from here."""
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def say_answer(text: str) -> None:
    """The answer alone on stdout. To a terminal control characters are shown, not obeyed; a file gets the bytes."""
    if not text:
        return
    shown_text = block(text) if sys.stdout.isatty() else text.encode("utf-8", "replace").decode()
    sys.stdout.write(shown_text.rstrip("\n") + "\n")
    sys.stdout.flush()


def _write_json(envelope: Envelope) -> None:
    try:
        sys.stdout.write(encode(envelope).decode("ascii"))
        sys.stdout.flush()
    except BrokenPipeError:  # the log has everything; the run goes on to its end
        _discard(1)


def _folder(config: Config, options: Options) -> RunFolder | None:
    """The readable run folder, to be made when the run begins."""
    if not config.ui.logging_enabled:
        return None
    given = options.run_dir
    if given is None:
        base = options.folder_base or Path.cwd()
        return RunFolder(lambda: make_folder(base, now=datetime.now().astimezone()), config=resolved_yaml(config))
    if given.exists() and (not given.is_dir() or any(given.iterdir())):
        raise ConfigError(f"--run-dir {given} is taken; name a new or an empty folder")

    def make() -> Path:
        given.mkdir(parents=True, exist_ok=True)
        return given

    return RunFolder(make, config=resolved_yaml(config))


def _add_patch(folder: RunFolder, state: Path, result: RunResult, console: Console) -> None:
    from massgen.app import diff_run

    try:
        folder.patch(diff_run(state, result.run_id))
    except ConfigError:  # no result, no patch
        return
    except OSError as error:
        console.print(f"note   the run folder is incomplete: {error.strerror}", style="yellow", markup=False)
