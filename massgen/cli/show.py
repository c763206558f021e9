"""`massgen show [RUN]`."""

from __future__ import annotations

import sys

import click


@click.command("show")
@click.argument("run", default="")
@click.option("--json", "as_json", is_flag=True, help="The run's events, as JSON lines.")
@click.option("--answers", is_flag=True, help="Every answer, not only the result.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(run: str, *, as_json: bool, answers: bool, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Print one run: task, votes with their reasons, result.

    RUN: a run id or the start of one; default: the last run of the folder you stand in.
    """
    from rich.console import Console
    from rich.text import Text

    from massgen.cli.chosen import chosen
    from massgen.cli.running import say_answer
    from massgen.coordination.later import standing
    from massgen.coordination.resume import why_not
    from massgen.display.story import Story
    from massgen.display.summary import show
    from massgen.display.text import block, line
    from massgen.errors import ConfigError
    from massgen.events.codec import LogError
    from massgen.events.log import FILE
    from massgen.events.replay import read

    which = chosen(run)
    folder, record = which.folder, which.record
    log = folder / FILE
    if as_json:
        sys.stdout.buffer.write(log.read_bytes() if log.exists() else b"")
        return 0
    story = Story()
    try:
        for envelope in read(log):
            story.feed(envelope)
    except FileNotFoundError as error:
        raise ConfigError(f"run {record.run_id} ended before anything happened in it") from error
    except LogError as error:
        raise ConfigError(f"the log of run {record.run_id} is damaged: {error}") from error
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(Text(f"task: {line(record.prompt)}", style="bold"), soft_wrap=True)
    for answer in story.answers if answers else ():
        console.print(Text(f"\n{answer.answer}  {story.name(answer.agent)}", style="cyan"))
        console.print(Text(block(answer.text)), soft_wrap=True)
    for vote in story.votes:
        console.print(
            Text(f"vote   {story.name(vote.agent)} → {story.name(vote.for_agent)}: {line(vote.reason, 400)}", style="dim"),
            soft_wrap=True,
        )
    now = standing(which.state, record)
    resumable = bool(record.invocation) and not (now and now.written) and not why_not(folder, record)
    show(story, console, log=str(folder), named=which.named, standing=now, resumable=resumable)
    result = story.presented or (story.answers[-1] if story.answers else None)
    say_answer(result.text if result else "")
    return 0
