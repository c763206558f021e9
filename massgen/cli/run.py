"""`massgen run PROMPT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

if TYPE_CHECKING:
    from massgen.config.model import WriteMode

MAX_PROMPT_BYTES = 1024 * 1024
WRITE_MODES = ("apply", "review", "direct", "never")
ALLOW = ("hooks", "ci", "shell", "editor", "agents", "deletes")
DISPLAYS = ("rich_terminal", "terminal", "simple")


class _Spread(click.Command):
    """A command whose `--models` takes all words up to the next option: click's options take a fixed number."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, with each of those words behind a `--models` of its own."""
        spread = _spread(args)
        try:
            return super().parse_args(ctx, list(spread))
        except click.MissingParameter as error:
            if "--models" not in spread:
                raise
            raise click.UsageError(
                f"there is no question, and --models takes all words up to the next option, also {spread[-1][:60]!r}; "
                'put the question first, or behind `--`: massgen --models A B -- "question"',
                ctx,
            ) from error


def _spread(args: list[str]) -> list[str]:
    """`--models A B` as `--models A --models B`; behind `--` nothing is an option."""
    out: list[str] = []
    option = ""
    for at, word in enumerate(args):
        if word == "--":
            return [*out, *args[at:]]
        if word.startswith("-"):
            option = word
        elif option == "--models" and out[-1] != "--models":
            out.append("--models")
        out.append(word)
    return out


@click.command("run", cls=_Spread)
@click.argument("prompt")
@click.option("--config", default="", metavar="FILE", help="Team, context paths and limits: YAML or JSON, or @examples/NAME.")
@click.option("--model", default="", metavar="NAME", help="One agent with this model, or backend:model.")
@click.option("--backend", default="", metavar="TYPE", help="The model's backend: openai, claude, gemini, ollama, …")
@click.option("--base-url", "--base_url", default="", metavar="URL", help="An OpenAI-compatible endpoint.")
@click.option(
    "--agents",
    default="",
    metavar="A,B",
    help="These of the config's team; without a team these models, or backend:model.",
)
@click.option(
    "--models",
    multiple=True,
    metavar="A B…",
    help="A team of these models, or backend:model. Takes all words up to the next option.",
)
@click.option("--system-message", default="", metavar="TEXT", help="What the agent is told about its role.")
@click.option("--read", multiple=True, metavar="PATH", help="Show a file or folder to the agents. Repeatable.")
@click.option(
    "--write", multiple=True, metavar="PATH", help="Let agents change drafts of it; the winner's may be written. Repeatable."
)
@click.option("--verify", default="", metavar="CMD", help="Run this on every answer and on the result, in a fresh container.")
@click.option("--apply", "apply_", is_flag=True, help="Short for --write-mode apply.")
@click.option(
    "--write-mode",
    type=click.Choice(WRITE_MODES),
    help="apply: write the result. review: wait for `massgen apply`. direct: the winner's final turn writes. never.",
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(ALLOW),
    metavar="CLASS",
    help=f"In mode apply, also write files that run by themselves: {', '.join(ALLOW)}. Repeatable.",
)
@click.option(
    "--max-cost", type=click.FloatRange(min=0, min_open=True), metavar="USD", help="The run costs at most this; exit 4."
)
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="The run's calls use at most so many tokens; exit 4.")
@click.option("--timeout", "--max-duration", default="", metavar="TIME", help="Of the whole run: 90, 10m, 1h. Default 30m.")
@click.option(
    "--consensus",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="How many of the agents must agree, 0 to 1; short of it they debate. Default 0: most votes win.",
)
@click.option(
    "--max-debates", type=click.IntRange(0, 100), metavar="N", help="Rounds of debate at most; then most votes win. Default 1."
)
@click.option("--image", default="", metavar="IMAGE", help="The agents' container image: any with python3 ≥ 3.9.")
@click.option("--json", "as_json", is_flag=True, help="Events as JSON lines on stdout.")
@click.option("--display", type=click.Choice(DISPLAYS), help="How progress looks; simple: no colour.")
@click.option("--no-display", is_flag=True, help="No progress lines.")
@click.option("--no-logs", is_flag=True, help="Do not write .massgen/massgen_logs/.")
@click.option("--run-dir", default="", metavar="DIR", help="Write the readable run folder here instead (must be empty).")
@click.option("--dry-run", is_flag=True, help="Say who would run and what they would see; start nothing.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(prompt: str, **given: object) -> int:
    """Ask the configured agents a question, or give them a task. PROMPT `-` reads stdin.

    The answer goes to stdout, progress to stderr. Without --config, --read or --write the git tree you stand in is
    shown, and nothing is written before `massgen apply`.
    """
    from massgen.cli.running import Options, run_command
    from massgen.config.load import Flags

    who = [f"--{name}" for name in ("agents", "models", "model") if given[name]]
    if len(who) > 1:
        raise click.UsageError(f"{' and '.join(who)} both say who runs; give one of them")
    mode = cast("WriteMode | None", given["write_mode"])  # click.Choice allows only these
    if given["apply_"]:
        if mode not in (None, "apply"):
            raise click.UsageError(f"--apply and --write-mode {mode} contradict each other")
        mode = "apply"
    names = ("config", "model", "backend", "base_url", "system_message", "verify", "timeout", "image")
    words = {name: str(given[name]) for name in names}
    flags = Flags(
        **words,
        agents=_listed(str(given["agents"])),
        models=tuple(model for word in _words(given["models"]) for model in _listed(word)),
        read=_words(given["read"]),
        write=_words(given["write"]),
        write_mode=mode,
        allow=_words(given["allow"]),
        max_cost_usd=cast("float | None", given["max_cost"]),
        max_tokens=cast("int | None", given["max_tokens"]),
        consensus=cast("float | None", given["consensus"]),
        max_debates=cast("int | None", given["max_debates"]),
        display=str(given["display"] or ""),
        logs=not given["no_logs"],
    )
    options = Options(
        as_json=bool(given["as_json"]),
        show=not given["no_display"],
        dry_run=bool(given["dry_run"]),
        debug=bool(given["debug"]),
        run_dir=Path(str(given["run_dir"])).expanduser() if given["run_dir"] else None,
    )
    return run_command(_prompt(prompt), flags, options)


def _words(values: object) -> tuple[str, ...]:
    return tuple(str(v) for v in values) if isinstance(values, tuple) else ()


def _listed(typed: str) -> tuple[str, ...]:
    """The words between commas."""
    return tuple(word for part in typed.split(",") if (word := part.strip()))


def _prompt(typed: str) -> str:
    """The question; stdin is read for `-` only, so that no run ever waits for a pipe that nobody closes."""
    if typed != "-":
        text = typed
    else:
        raw = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
        if len(raw) > MAX_PROMPT_BYTES:
            raise click.UsageError(f"the question on stdin is longer than {MAX_PROMPT_BYTES // 1024} KiB")
        text = raw.decode("utf-8", "replace")
    if not text.strip():
        raise click.UsageError("the question is empty")
    return text.encode("utf-8", "replace").decode()
