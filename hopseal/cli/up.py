"""``hopseal up``: a whole node in the foreground."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path
from types import FrameType

import click

from hopseal.cli.engines import find_engines
from hopseal.cli.local_node import LocalNode
from hopseal.cli.node_plan import NodePlan, choose_broker_user
from hopseal.cli.options import trust_domain_option
from hopseal.cli.output import format_count
from hopseal.documents.load import load_documents
from hopseal.errors import InvalidError
from hopseal.ids import TrustDomain
from hopseal.log.note import parse_vkey

SYSTEM_FOLDER = Path("/run/hopseal")  # where every command looks for sockets by itself
_NEXT = (
    "hopseal status",
    "hopseal agents init NAME --pid COMPONENT=PID",
    "hopseal chain show --last",
)


@click.command()
@click.option(
    "--documents",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of Agent documents, empty at first; reloaded when they change.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for sockets, keys and logs. Default: /run/hopseal for root, else one of your own.",
)
@click.option(
    "--witness",
    "witnesses",
    type=(str, str),
    multiple=True,
    metavar="URL VKEY",
    help="A witness that cosigns the log, see docs/witness.md; may be repeated. One of them must.",
)
@trust_domain_option
def up(documents: Path, state: Path | None, witnesses: tuple[tuple[str, str], ...], trust_domain: str) -> None:
    """Run a whole node in the foreground, on the embedded authority, for trying it out.

    Starts an attestor and a broker, prints their sockets and stops both on Ctrl-C. Needs root only
    where components run as several users.

    \b
    Example:
      hopseal up --documents ./agents
      hopseal up --documents ./agents --state /tmp/try --trust-domain test.example.org
      hopseal up --documents ./agents --witness http://127.0.0.1:7380 "$(head -1 witness.vkey)"
    """
    if not documents.is_dir():
        raise InvalidError(
            "documents_missing",
            f"{documents} is no folder",
            remedy=f"mkdir {shlex.quote(str(documents))}; it may be empty until `hopseal agents init` drafts one",
        )
    for _, key in witnesses:
        parse_vkey(key)
    found = load_documents(documents, TrustDomain.parse(trust_domain))
    folder = (state or _default_folder()).resolve()
    user = choose_broker_user(folder, documents.resolve())
    engines = find_engines()
    plan = NodePlan(
        folder,
        documents.resolve(),
        trust_domain,
        broker_user=user,
        docker=engines.docker,
        podman=engines.podman,
        witnesses=witnesses,
    )
    agents = format_count(len(found.agents), "agent")
    click.echo(f"Node {plan.node} of {trust_domain} in {folder}, {agents} in {documents}")
    if user is None and os.geteuid() == 0:
        click.echo("  note: the broker runs as root too, because other users cannot read this installation")
    for number in (signal.SIGTERM, signal.SIGHUP):  # also when the terminal closes
        signal.signal(number, _interrupt)
    try:
        with LocalNode(plan, _progress) as node:
            node.start()
            _print_how_to(plan)
            node.wait()
    except KeyboardInterrupt:
        click.echo("\nStopped.")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _default_folder() -> Path:
    if os.geteuid() == 0:
        return SYSTEM_FOLDER
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/hopseal-{os.geteuid()}") / "hopseal"  # noqa: S108 - own uid


def _progress(name: str, seconds: float) -> None:
    click.echo(f"  {click.style('✓', fg='green')} {name} is ready after {seconds:.1f} s")


def _print_how_to(plan: NodePlan) -> None:
    click.echo("\nComponents find it by:")
    for name in ("SPIFFE_ENDPOINT_SOCKET", "HOPSEAL_OUT_SOCKET"):
        click.echo(f"  {name}={plan.environment[name]}")
    click.echo("\nTry it in another shell:")
    for command in (f"source {shlex.quote(str(plan.environment_file))}", *_NEXT):
        click.echo(f"  {command}")
    click.echo("\nCtrl-C stops both.")
