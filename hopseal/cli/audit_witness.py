"""``hopseal audit witness``: run a witness for other nodes' logs."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from pathlib import Path

import click

from hopseal.cli.lazy import LazyGroup
from hopseal.cli.output import json_option, print_json
from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.signers import KeySigner
from hopseal.witness.config import DEFAULT_CONFIG, DEFAULT_LISTEN, WitnessConfig, load_config
from hopseal.witness.keys import ALGORITHMS, load_signers
from hopseal.witness.state import open_state

_config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="Configuration file.",
)


@click.group(cls=LazyGroup)
def witness() -> None:
    """A witness: cosigns the logs of nodes, so that none of them can show two histories.

    Run it on a machine where the operators of the nodes have no rights. See docs/witness.md.

    \b
    Example:
      hopseal audit witness init --name witness.example.com/w1 --log "$(cat node-1.vkey)"
      hopseal audit witness run
    """


@witness.command(short_help="Write a configuration and make the keys.")
@click.option("--name", required=True, help="Name of its keys: a URL without scheme, such as witness.example.com/w1.")
@click.option("--log", "logs", multiple=True, required=True, help="Verifier key of a log to cosign; may be repeated.")
@click.option(
    "--algorithm",
    "algorithms",
    type=click.Choice(ALGORITHMS),
    multiple=True,
    default=ALGORITHMS,
    show_default=True,
    help="Keys to make; may be repeated. The public network needs ed25519; ml-dsa-44 outlives quantum computers.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/var/lib/hopseal-witness"),
    show_default=True,
    help="Folder for keys and memory.",
)
@click.option("--listen", default=DEFAULT_LISTEN, show_default=True, help="Address and port.")
@_config_option
def init(
    *, name: str, logs: tuple[str, ...], algorithms: tuple[str, ...], state: Path, listen: str, config_path: Path
) -> None:
    """Write a configuration, make the keys, and print what the nodes need.

    Does not touch a configuration that exists, and never makes keys anew.

    \b
    Example:
      hopseal audit witness init --name witness.example.com/w1 --log "$(cat node-1.vkey)"
    """
    text = "\n".join(
        (
            f"name: {json.dumps(name)}",
            f"listen: {json.dumps(listen)}",
            f"state_dir: {json.dumps(str(state.absolute()))}",
            f"algorithms: [{', '.join(algorithms)}]",
            "logs:",
            *(f"  - key: {json.dumps(key.strip())}" for key in logs),
            "",
        )
    )
    config = _write_config(config_path, text)
    with open_state(config.state_dir, config.name, config.algorithms) as opened:
        click.echo(f"Configuration: {config_path}")
        click.echo(f"Keys and memory: {config.state_dir}")
        click.echo("For broker.yaml of each node, and the policy of each auditor:")
        _print_keys(opened.signers)
    click.echo(f"Start it: hopseal audit witness run --config {shlex.quote(str(config_path))}")


@witness.command(short_help="Run the witness in the foreground.")
@_config_option
@click.option("--check", is_flag=True, help="Check the configuration, name every mistake, and exit.")
def run(*, config_path: Path, check: bool) -> None:
    """Run the witness in the foreground; a missing state folder and its keys are made.

    \b
    Example:
      hopseal audit witness run --config /etc/hopseal/witness.yaml
    """
    config = load_config(config_path)
    if check:
        click.echo(f"{config_path}: no mistakes")
        return
    try:
        from hopseal.witness.service import serve  # noqa: PLC0415 - needs the extra, which nothing else here does
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "witness_extra_missing",
            f"a witness needs {error.name}, which is not installed here",
            remedy="pip install 'hopseal[witness]'",
        ) from error
    asyncio.run(serve(config))


@witness.command()
@_config_option
@json_option
def key(*, config_path: Path, as_json: bool) -> None:
    """Print the verifier keys of the witness.

    \b
    Example:
      hopseal audit witness key --config /etc/hopseal/witness.yaml
    """
    config = load_config(config_path)
    signers = load_signers(config.state_dir, config.name)
    if as_json:
        print_json({"name": config.name, "keys": [str(signer.key) for signer in signers]})
        return
    _print_keys(signers)


def _print_keys(signers: tuple[KeySigner, ...]) -> None:
    for signer in signers:
        click.echo(str(signer.key))


def _write_config(path: Path, text: str) -> WitnessConfig:
    """Write the configuration for good only if it has no mistake and nothing is there."""
    draft = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        try:
            config = load_config(draft)
            os.link(draft, path)
        finally:
            draft.unlink()
    except OSError as error:
        if path.exists():
            raise InvalidError(
                "witness_config_exists",
                f"{path} is there already",
                remedy="edit it, or name another file with --config",
            ) from error
        raise UnavailableError(
            "witness_config_unwritable", f"{path}: {error.strerror}", remedy="name a file you may write with --config"
        ) from error
    return config
