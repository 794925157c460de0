"""``hopseal attestor …``: running the daemon and checking its configuration.

Owns: the commands. Does not own: exit codes, which ``hopseal``'s main command gives to our errors.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from attestor.config import load_config
from attestor.daemon import run_daemon
from attestor.logs import set_up_logs

DEFAULT_CONFIG = Path("/etc/hopseal/attestor.yaml")

_config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    metavar="FILE",
    help="Configuration file.",
)


@click.group("attestor")
def attestor_group() -> None:
    """The daemon that says which process is which component."""


@attestor_group.command("run")
@_config_option
@click.option("--check", is_flag=True, help="Only validate the configuration, and name every mistake.")
def run_command(config_path: Path, check: bool) -> None:
    """Run the attestor in the foreground.

    Example: hopseal attestor run --config /etc/hopseal/attestor.yaml
    """
    config = load_config(config_path)
    if check:
        click.echo(f"{config_path} is valid")
        return
    set_up_logs(config.log)
    asyncio.run(run_daemon(config))


@attestor_group.command("config")
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config_command(config_path: Path, as_json: bool) -> None:
    """Print the configuration in effect, defaults filled in.

    Example: hopseal attestor config --config /etc/hopseal/attestor.yaml --json
    """
    shown = _shown(dataclasses.asdict(load_config(config_path)))
    if as_json:
        click.echo(json.dumps(shown, indent=2, sort_keys=True))
        return
    for line in _lines(shown, ""):
        click.echo(line)


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shown(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_shown(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _lines(value: dict[str, Any], prefix: str) -> list[str]:
    lines: list[str] = []
    for key, each in sorted(value.items()):
        if isinstance(each, dict):
            lines += _lines(each, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {json.dumps(each)}")
    return lines
