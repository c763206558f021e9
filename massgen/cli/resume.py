"""`massgen resume [RUN]`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("resume")
@click.argument("run", default="")
@click.option("--timeout", "--max-duration", default="", metavar="TIME", help="From now on: 90, 10m, 1h. Default: what was left.")
@click.option("--json", "as_json", is_flag=True, help="The new events as JSON lines on stdout; massgen show --json has all.")
@click.option("--no-display", is_flag=True, help="No progress lines.")
@click.option("--no-logs", is_flag=True, help="Do not write .massgen/massgen_logs/.")
@click.option("--run-dir", default="", metavar="DIR", help="Write the readable run folder here instead (must be empty).")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(
    run: str,
    *,
    timeout: str,
    as_json: bool,
    no_display: bool,
    no_logs: bool,
    run_dir: str,
    debug: bool,
) -> int:
    """Go on with a run that was killed, lost its engine, or filled the disk: what was answered is not asked for again.

    RUN: a run id or the start of one; default: the last run that can be resumed. Its config is read again; what changed in it, or
    in your project, is said. Exit code 2 when it has ended or still goes on.
    """
    from massgen.cli.running import Options, resume_command

    options = Options(
        as_json=as_json,
        show=not no_display,
        debug=debug,
        run_dir=Path(run_dir).expanduser() if run_dir else None,
    )
    return resume_command(run, options, timeout=timeout, logs=not no_logs)
