"""``hopseal config``: what the daemons make of their configuration files."""

from __future__ import annotations

from pathlib import Path

import click

from hopseal.cli.lazy import NODE_PACKAGE, LazyGroup, node_commands
from hopseal.cli.output import json_option
from hopseal.errors import UnavailableError


@click.group(cls=LazyGroup)
def config() -> None:
    """The daemons' effective configuration.

    \b
    Example:
      hopseal config show attestor
    """


@config.command()
@click.argument("daemon", type=click.Choice(["attestor", "broker"]))
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="Default: /etc/hopseal/attestor.yaml or broker.yaml."
)
@json_option
@click.pass_context
def show(context: click.Context, daemon: str, file: Path | None, *, as_json: bool) -> None:
    """Print the effective configuration of a daemon, defaults included.

    \b
    Example:
      hopseal config show broker --config /etc/hopseal/broker.yaml --json
    """
    group = node_commands(daemon)
    command = group.get_command(context, "config") if isinstance(group, click.Group) else None
    if command is None:
        raise UnavailableError(
            "node_package_missing",
            f"the {daemon} is part of {NODE_PACKAGE}, which is not installed here",
            remedy=f"pip install {NODE_PACKAGE}",
        )
    arguments = ["--config", str(file or f"/etc/hopseal/{daemon}.yaml"), *(["--json"] if as_json else [])]
    with command.make_context(f"hopseal {daemon} config", arguments, parent=context) as inner:
        command.invoke(inner)
