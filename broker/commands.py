"""``hopseal broker``: the daemon's commands, found by the command line through an entry point.

Owns: arguments and their meaning. Does not own: exit codes of errors (``hopseal.cli``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import click

from broker.config import BrokerConfig, Endpoint, load_config
from broker.logs import configure_logs
from broker.service import serve
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.log.note import VerifierKey

DEFAULT_CONFIG = "/etc/hopseal/broker.yaml"

_config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="Configuration file.",
)


@click.group(name="broker")
def broker_group() -> None:
    """The broker of this node: calls on behalf of its components."""


@broker_group.command()
@_config_option
@click.option("--check", is_flag=True, help="Check the configuration, name every mistake, and exit.")
@click.option("--take-over", is_flag=True, help="Take over from the running broker; no call is lost.")
def run(config_path: Path, *, check: bool, take_over: bool) -> None:
    """Run the broker in the foreground.

    Example: hopseal broker run --config /etc/hopseal/broker.yaml --check
    """
    config = load_config(config_path)
    if check:
        click.echo(f"{config_path}: no mistakes")
        return
    configure_logs(config.log)
    asyncio.run(serve(config, take_over=take_over))


@broker_group.command()
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(config_path: Path, as_json: bool) -> None:
    """Print the configuration in effect, with every default filled in.

    Example: hopseal broker config --json
    """
    effective = describe_config(load_config(config_path))
    if as_json:
        click.echo(json.dumps(effective, indent=2))
        return
    for key, value in _flatten("", effective):
        click.echo(f"{key}: {value}")


def describe_config(config: BrokerConfig) -> dict[str, Any]:
    """The configuration as JSON values; it holds no secrets."""
    return {key: _describe(getattr(config, key)) for key in config.__slots__}


def _describe(value: object) -> Any:
    if isinstance(value, TrustDomain):
        return value.name
    if isinstance(value, Endpoint | Path | SpiffeId | VerifierKey):
        return str(value)
    if isinstance(value, tuple):
        return [_describe(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _describe(each) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _describe(getattr(value, each.name)) for each in fields(value)}
    return value


def _flatten(prefix: str, values: dict[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flatten(f"{prefix}{key}.", value) if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found
