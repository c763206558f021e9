"""A run as the command line sees it: readers in, answer and exit code out."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from rich.console import Console
from rich.text import Text

from massgen.cli.chosen import named
from massgen.config.load import Flags, load
from massgen.config.model import Config
from massgen.config.paths import Places, here
from massgen.config.resolved import resolved_yaml
from massgen.config.sizes import duration_s
from massgen.display.plain import Progress
from massgen.display.runfolder import RunFolder, make_folder
from massgen.display.story import Story
from massgen.display.summary import show
from massgen.display.text import block, bytes_text, line
from massgen.errors import ConfigError
from massgen.events.codec import Envelope, encode

if TYPE_CHECKING:
    from massgen.app import RunResult
    from massgen.coordination.record import Record

Reader = Callable[[Envelope], None]
TICK_S = 1.0


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
    return run(config, prompt, options, flags).exit_code


def resume_command(run_name: str, options: Options, *, timeout: str, logs: bool) -> int:
    """Find the run, load its config again, go on. Returns the exit code; raises MassgenError."""
    from massgen.app import resume as resume_app
    from massgen.cli.engine import connect
    from massgen.coordination.resume import find

    state = Places.find(os.environ).state
    _, record = find(state, run_name)
    flags, cwd = _begun(record)
    config = load(flags, cwd=cwd)
    options = replace(options, folder_base=cwd)
    seen = _Seen(config if logs else replace(config, ui=replace(config.ui, logging_enabled=False)), options)
    timeout_s = duration_s(timeout) if timeout else None

    async def work() -> RunResult:
        return await resume_app(
            config,
            record.run_id,
            engine=await connect(),
            readers=seen.readers,
            earlier=seen.catch_up,
            state_dir=state,
            timeout_s=timeout_s,
            say=seen.say,
        )

    return seen.to_the_end(anyio.run(seen.watched, work)).exit_code


def _begun(record: Record) -> tuple[Flags, Path]:
    """With what, and where, a run was begun. Raises ConfigError."""
    try:
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.invocation["flags"].items()}
        return Flags(**given), Path(str(record.invocation["cwd"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"run {record.run_id} was begun from Python or by another version, and its config is not known here; "
            "massgen.app.resume(config, run, …) goes on with it"
        ) from error


def run(config: Config, prompt: str, options: Options, flags: Flags) -> RunResult:
    """One run with its displays."""
    from massgen.app import run as run_app
    from massgen.cli.engine import connect

    seen = _Seen(config, options)
    invocation = {"flags": asdict(flags), "cwd": str(here())}

    async def work() -> RunResult:
        return await run_app(
            config,
            prompt,
            engine=await connect(),
            readers=seen.readers,
            state_dir=seen.state,
            say=seen.say,
            invocation=invocation,
        )

    return seen.to_the_end(anyio.run(seen.watched, work))


class _Seen:
    """All that shows a run to its user."""

    def __init__(self, config: Config, options: Options) -> None:
        self.state = Places.find(os.environ).state
        self._options = options
        self._console = stderr_console(config)
        self._story = Story()
        self._folder = _folder(config, options)
        self._progress = None if options.as_json or not options.show else Progress(self._console, limits=limits_text(config))
        shown_by = (self._story.feed, self._folder, _write_json if options.as_json else self._progress)
        self.readers: list[Reader] = [reader for reader in shown_by if reader]

    def say(self, text: str) -> None:
        """Before there is a log."""
        if self._options.show:
            self._console.print(Text.assemble(("image  ", "bold"), (line(text, 200), "dim")), soft_wrap=True)

    async def watched(self, work: Callable[[], Awaitable[RunResult]]) -> RunResult:
        """The work; meanwhile its progress is told how time goes by, as a model that thinks for minutes says nothing itself."""
        async with anyio.create_task_group() as tasks:
            if self._progress:
                tasks.start_soon(_tick, self._progress)
            result = await work()
            tasks.cancel_scope.cancel()
        return result

    def catch_up(self, past: Sequence[Envelope]) -> None:
        """What happened before the run was resumed: told to whoever keeps account, not shown again."""
        for envelope in past:
            self._story.feed(envelope)
        if self._progress:
            self._progress.catch_up(past)
        if self._folder:
            with suppress(OSError):  # it will fail again with the next event, and be dropped with a word
                for envelope in past:
                    self._folder(envelope)

    def to_the_end(self, result: RunResult) -> RunResult:
        """After the run."""
        folder = self._folder
        if folder:
            _add_patch(folder, self.state, result, self._console)
        if self._options.as_json:
            return result
        if self._options.show:
            log = shown(folder.made) if folder and folder.made else ""
            show(self._story, self._console, log=log, named=named(self.state, result.run_id))
        elif result.exit_code and result.message:  # who wants no progress still wants to know why it failed
            self._console.print(line(result.message), soft_wrap=True, markup=False)
        say_answer(result.answer)
        return result


async def _tick(progress: Progress) -> None:
    while True:
        await anyio.sleep(TICK_S)
        progress.tick(datetime.now(UTC).isoformat())


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
    cwd = here()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def say_answer(text: str) -> None:
    """The answer alone on stdout. To a terminal control characters are shown, not obeyed; a file gets the bytes."""
    if not text:
        return
    shown_text = block(text) if sys.stdout.isatty() else text.encode("utf-8", "replace").decode()
    _put(shown_text.rstrip("\n") + "\n")


def _write_json(envelope: Envelope) -> None:
    _put(encode(envelope).decode("ascii"))


def _put(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the log has everything; the run goes on to its end
        _discard(1)


def _folder(config: Config, options: Options) -> RunFolder | None:
    """The readable run folder, to be made when the run begins."""
    if not config.ui.logging_enabled:
        return None
    given = options.run_dir
    if given is None:
        base = options.folder_base or here()
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
