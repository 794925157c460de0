"""Options that several commands share: where the daemons' sockets and the documents are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

DEFAULT_ATTESTOR_SOCKET = Path("/run/hopseal/attestor/admin.sock")
DEFAULT_BROKER_SOCKET = Path("/run/hopseal/broker/admin.sock")
DEFAULT_OUT_SOCKET = Path("/run/hopseal/call/out.sock")
DEFAULT_WORKLOAD_SOCKET = Path("/run/hopseal/agent/api.sock")
DEFAULT_DOCUMENTS = Path("/etc/hopseal/agents")
DEFAULT_LOG = Path("/var/lib/hopseal/broker/log")

_PATH = click.Path(path_type=Path)


def _path_option(flag: str, variable: str, default: Path, text: str) -> Callable[[_F], _F]:
    return click.option(
        flag, type=_PATH, envvar=variable, default=default, show_default=True, show_envvar=True, help=text
    )


attestor_socket_option = _path_option(
    "--attestor-socket", "HOPSEAL_ATTESTOR_SOCKET", DEFAULT_ATTESTOR_SOCKET, "The attestor's admin socket."
)
broker_socket_option = _path_option(
    "--broker-socket", "HOPSEAL_BROKER_SOCKET", DEFAULT_BROKER_SOCKET, "The broker's admin socket."
)
out_socket_option = _path_option("--out-socket", "HOPSEAL_OUT_SOCKET", DEFAULT_OUT_SOCKET, "The broker's call socket.")
documents_option = _path_option("--documents", "HOPSEAL_DOCUMENTS", DEFAULT_DOCUMENTS, "Folder of Agent documents.")
trust_domain_option = click.option(
    "--trust-domain",
    envvar="HOPSEAL_TRUST_DOMAIN",
    default="example.org",
    show_default=True,
    show_envvar=True,
    help="Trust domain of the SPIFFE IDs.",
)
log_option = click.option(
    "--log",
    "logs",
    type=_PATH,
    envvar="HOPSEAL_LOG",
    multiple=True,
    default=(DEFAULT_LOG,),
    show_default=True,
    show_envvar=True,
    help="A broker's state folder, its log folder, or a file of the log; may be given several times.",
)
