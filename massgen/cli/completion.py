"""`massgen completion SHELL`: the lines that make a shell complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_MASSGEN_COMPLETE"
"""What the lines below set when they ask this program; click's own name for it."""


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(*, shell: str, debug: bool) -> int:  # noqa: ARG001  (--debug is read by main)
    """Print what makes a shell complete massgen's commands and options.

    \b
    bash  eval "$(massgen completion bash)"        in ~/.bashrc
    zsh   eval "$(massgen completion zsh)"         in ~/.zshrc
    fish  massgen completion fish | source         in ~/.config/fish/config.fish
    """  # noqa: D301  (click wants the character itself)
    from massgen.cli.main import cli

    known = get_completion_class(shell)
    if known is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(known(cli, {}, "massgen", VARIABLE).source())
    return 0
