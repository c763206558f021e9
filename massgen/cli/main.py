"""`massgen`: which command was meant, and what becomes of an error.

Loading click is all that `massgen --help` does: commands are imported by name when they run, so that no SDK,
engine client or schema library stands between a user and the help text.

A first word that is a command is that command; anything else is a question for `massgen run`. Bare words that are no
command are an error: a typo, or a command of another program, must not start a run.
"""

from __future__ import annotations

import difflib
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from massgen.errors import MassgenError

COMMANDS = {
    "run": "Ask the configured agents a question, or give them a task.",
    "exec": "Run one command in a sandbox, under limits.",
    "demo": "See the main job: agents fix a real bug in a small project. No key needed.",
    "diff": "Show what a run changed, or would change.",
    "apply": "Write a run's result into your project.",
    "undo": "Take a written result back.",
    "resume": "Go on with a run that was killed, without asking twice.",
    "runs": "List runs.",
    "show": "Print one run: answers, votes, result.",
    "gc": "Remove old runs, and what dead ones left behind.",
    "images": "Build the agents' images, list and remove them.",
    "models": "List models, whose keys are there and what answers; fetch a model file.",
    "doctor": "Check engine, image, keys, and the isolation guarantees.",
    "completion": "Make bash, zsh or fish complete commands and options.",
}
DEFAULT = "run"
BUG_EXIT = 70
"""EX_SOFTWARE of sysexits.h: an error that nobody expected, ours."""
READER_LEFT = 141
"""As a shell says of a program that SIGPIPE ended."""

_EPILOG = """\b
massgen "question"  is short for  massgen run "question".
First time here: massgen demo"""


class LazyGroup(click.Group):
    """A group whose commands are modules `massgen.cli.<name>` with a function `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """In the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"massgen.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """From the table above: click's own would import every command for its first line."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(package_name="massgen", prog_name="massgen")
def cli() -> None:
    """Several agents, each in its own locked container, work on your task, vote, and the winner alone may write."""


def with_command(args: Sequence[str]) -> list[str]:
    """The arguments with `run` put first where it was left out. Raises click.UsageError for a mistyped command."""
    if not args or args[0] in COMMANDS or args[0] in ("-h", "--help", "--version"):
        return list(args)
    if args[0] == "help":
        return [*args[1:2], "--help"]
    if all(word.isalnum() for word in args):
        near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.7)
        meant = f"did you mean `massgen {near[0]}`?" if near else "massgen --help lists them."
        raise click.UsageError(
            f"`{args[0]}` is not a command; {meant} As a question: massgen run -- {shlex.quote(' '.join(args))}"
        )
    return [DEFAULT, *args]


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code. Never a traceback for an expected error, unless `--debug`."""
    code = _code(list(sys.argv[1:] if args is None else args))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # closing it at exit would complain once more
        code = code or READER_LEFT
    sys.exit(code)


def _code(given: list[str]) -> int:
    try:
        if not given and "_MASSGEN_COMPLETE" not in os.environ:
            click.echo(cli.get_help(click.Context(cli, info_name="massgen", **cli.context_settings)), err=True)
            return 2
        if given and not given[0].startswith("-h") and given[0] not in ("--help", "--version"):
            from massgen.cli.nocore import no_core  # 2 ms that a help text need not wait for

            no_core()
        result = cli.main(args=with_command(given), prog_name="massgen", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        return _say(error.format_message() + (f"\n  {context.command_path} --help" if context else ""), 2)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", 130)
    except (SystemExit, BrokenPipeError) as ended:
        return _left(ended)
    except BaseExceptionGroup as group:
        return _group(group, debug="--debug" in given)
    except MassgenError as error:
        return _expected(error, debug="--debug" in given)
    except Exception:  # noqa: BLE001  (the outermost frame: the alternative is Python's exit code 1, a verdict here)
        traceback.print_exc()
        return _say("that is a bug in massgen; please report it with the lines above", BUG_EXIT)
    return result if isinstance(result, int) else 0


def _left(ended: SystemExit | BrokenPipeError) -> int:
    """Where the reader of our output left, click and rich have silenced it and end with 1, which is a verdict here."""
    if isinstance(ended, BrokenPipeError) or ended.code == 1:
        return READER_LEFT
    return BUG_EXIT if ended.code else 0


def _group(group: BaseExceptionGroup[BaseException], *, debug: bool) -> int:
    """Task groups wrap what happens in them; the first expected error inside is what the user should read."""
    found = _first(group)
    if isinstance(found, MassgenError):
        return _expected(found, debug=debug)
    if isinstance(found, KeyboardInterrupt):
        return _say("interrupted", 130)
    traceback.print_exception(group)
    return _say("that is a bug in massgen; please report it with the lines above", BUG_EXIT)


def _first(error: BaseException) -> BaseException:
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = [_first(e) for e in error.exceptions]
    return next((e for e in inner if isinstance(e, MassgenError)), inner[0])


def _expected(error: MassgenError, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    return _say(str(error), error.exit_code)


def _say(text: str, code: int) -> int:
    safe = "".join(c if c == "\n" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    click.echo(f"{click.style('error', fg='red', bold=True)}: {safe}", err=True, color=_colour())
    return code


def _colour() -> bool | None:
    """None lets click ask the terminal."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return True if os.environ.get("FORCE_COLOR") else None
