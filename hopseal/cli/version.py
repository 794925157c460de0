"""``hopseal version``."""

from __future__ import annotations

import importlib.metadata
import platform

import click

import hopseal
from hopseal.cli.lazy import NODE_PACKAGE
from hopseal.cli.output import json_option, print_json


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Print the version of this program, and of the node package if it is installed.

    \b
    Example:
      hopseal version --json
    """
    node = _node_version()
    if as_json:
        print_json({"hopseal": hopseal.__version__, "hopseal_node": node, "python": platform.python_version()})
        return
    click.echo(f"hopseal {hopseal.__version__}")
    click.echo(f"{NODE_PACKAGE} {node or 'not installed'}")


def _node_version() -> str | None:
    try:
        return importlib.metadata.version(NODE_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
