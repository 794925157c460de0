"""``hopseal completion``: the script that a shell loads to complete commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hopseal.errors import BugError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      hopseal completion bash > /etc/bash_completion.d/hopseal
      source <(hopseal completion zsh)
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise BugError("shell_unknown", f"no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "hopseal", "_HOPSEAL_COMPLETE").source())
