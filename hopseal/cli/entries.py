"""``hopseal entries``: the daemons' own registration entries, and those that documents stand for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from hopseal.cli.lazy import EXIT_NO, EXIT_UNAVAILABLE, LazyGroup
from hopseal.cli.options import documents_option, trust_domain_option
from hopseal.cli.output import format_count, json_option, print_json
from hopseal.documents.load import load_documents
from hopseal.documents.model import AttestBlock
from hopseal.entries import broker_entries, document_entries
from hopseal.errors import InvalidError, UnavailableError
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.registrations import (
    Registration,
    RegistrationChanges,
    attestor_registration,
    diff_registrations,
    registration_of,
)
from hopseal.spire_server import Outcome, SpireServer

_SYSTEM_PATH = "/hopseal/"
DEFAULT_SERVER_SOCKET = Path("/run/spire/server/api.sock")

_parent_option = click.option(
    "--parent", required=True, metavar="SPIFFE-ID", help="Parent of the entries, normally a node alias."
)
_socket_option = click.option(
    "--server-socket",
    type=click.Path(path_type=Path),
    default=DEFAULT_SERVER_SOCKET,
    show_default=True,
    help="The SPIRE Server's API socket.",
)
_apply_option = click.option(
    "--apply", "is_applied", is_flag=True, help="Make the changes; without it, only show them."
)


@click.group(cls=LazyGroup)
def entries() -> None:
    """Registration entries on a SPIRE Server; touches only those whose ID begins with hopseal.

    \b
    Example:
      hopseal entries diff --parent spiffe://example.org/node
    """


@entries.command()
@click.option("--node", required=True, help="Name of the node, as in attestor.yaml and broker.yaml.")
@click.option("--attestor-uid", type=int, default=0, show_default=True, help="User that the attestor runs as.")
@click.option("--attestor-path", help="Its executable, as SPIRE's unix attestor sees it. Default: not attested.")
@click.option("--broker-uid", type=int, help="User that the broker runs as. Default: this one.")
@click.option("--broker-exe", multiple=True, help="Digest of the broker's executable, sha256:HEX.")
@click.option("--broker-unit", help="systemd unit that the broker runs in.")
@_parent_option
@trust_domain_option
@_socket_option
@_apply_option
@json_option
@click.pass_context
def bootstrap(
    context: click.Context,
    /,
    *,
    node: str,
    attestor_uid: int,
    attestor_path: str | None,
    broker_uid: int | None,
    broker_exe: tuple[str, ...],
    broker_unit: str | None,
    parent: str,
    trust_domain: str,
    server_socket: Path,
    is_applied: bool,
    as_json: bool,
) -> None:
    """Print or create the entries of the attestor and broker of one node.

    The broker's entry must require what `brokers:` in attestor.yaml says of it.

    \b
    Example:
      hopseal entries bootstrap --node node-1 --parent spiffe://example.org/node --broker-uid 990 --apply
    """
    domain = TrustDomain.parse(trust_domain)
    parent_id = _parse_parent(parent, domain)
    unix = {"uid": str(attestor_uid), **({"path": attestor_path} if attestor_path else {})}
    uid = os.geteuid() if broker_uid is None else broker_uid
    attest = AttestBlock(uid=uid, exe=broker_exe, unit=broker_unit)
    wanted = [
        attestor_registration(domain, node, parent_id, unix),
        *(registration_of(each, parent_id) for each in broker_entries(domain, node, attest)),
    ]
    if not is_applied:
        _print_changes(RegistrationChanges(tuple(wanted), (), ()), as_json=as_json)
        _hint_apply(as_json=as_json)
        return
    changes, outcomes = asyncio.run(_apply(server_socket, wanted, prune=False, keep_system=False))
    _finish(context, changes, outcomes, as_json=as_json)


@entries.command()
@documents_option
@_parent_option
@trust_domain_option
@_socket_option
@json_option
@click.pass_context
def diff(
    context: click.Context, documents: Path, parent: str, trust_domain: str, server_socket: Path, *, as_json: bool
) -> None:
    """Show how the server's entries differ from the documents; exits 1 if they do.

    \b
    Example:
      hopseal entries diff --server-socket /run/spire/server/api.sock --parent spiffe://example.org/node
    """
    changes = asyncio.run(_diff(server_socket, _wanted(documents, trust_domain, parent)))
    _print_changes(changes, as_json=as_json)
    if changes:
        context.exit(EXIT_NO)


@entries.command()
@documents_option
@_parent_option
@trust_domain_option
@_socket_option
@_apply_option
@json_option
@click.pass_context
def sync(
    context: click.Context,
    documents: Path,
    parent: str,
    trust_domain: str,
    server_socket: Path,
    *,
    is_applied: bool,
    as_json: bool,
) -> None:
    """Make the server's entries those of the documents; shows what it would do until told --apply.

    \b
    Example:
      hopseal entries sync --server-socket /run/spire/server/api.sock --parent spiffe://example.org/node --apply
    """
    wanted = _wanted(documents, trust_domain, parent)
    if not is_applied:
        changes = asyncio.run(_diff(server_socket, wanted))
        _print_changes(changes, as_json=as_json)
        if changes:
            _hint_apply(as_json=as_json)
        return
    changes, outcomes = asyncio.run(_apply(server_socket, wanted, prune=True, keep_system=True))
    _finish(context, changes, outcomes, as_json=as_json)


def _wanted(folder: Path, trust_domain: str, parent: str) -> list[Registration]:
    domain = TrustDomain.parse(trust_domain)
    parent_id = _parse_parent(parent, domain)
    return [registration_of(entry, parent_id) for entry in document_entries(load_documents(folder, domain))]


def _parse_parent(text: str, trust_domain: TrustDomain) -> SpiffeId:
    try:
        found = SpiffeId.parse(text)
    except InvalidError as error:
        raise InvalidError(
            error.code, error.message, detail=error.detail, remedy=f"write --parent spiffe://{trust_domain.name}/node"
        ) from error
    if found.trust_domain != trust_domain:
        raise InvalidError(
            "parent_outside",
            f"{text} is outside {trust_domain.name}",
            remedy="name a parent of this trust domain, or another --trust-domain",
        )
    return found


@asynccontextmanager
async def _open_server(socket: Path) -> AsyncGenerator[SpireServer]:
    """The server, and what to do when nobody answers there."""
    try:
        async with SpireServer(socket) as server:
            yield server
    except UnavailableError as error:
        raise UnavailableError(
            "spire_server_unreachable",
            f"no SPIRE Server answers on {socket}",
            detail=error.detail,
            remedy="start it, or name its API socket with --server-socket",
        ) from error


async def _diff(socket: Path, wanted: list[Registration]) -> RegistrationChanges:
    async with _open_server(socket) as server:
        return diff_registrations(wanted, _documents_part(await server.list_owned()))


async def _apply(
    socket: Path, wanted: list[Registration], *, prune: bool, keep_system: bool
) -> tuple[RegistrationChanges, tuple[Outcome, ...]]:
    async with _open_server(socket) as server:
        present = await server.list_owned()
        changes = diff_registrations(wanted, _documents_part(present) if keep_system else present, prune=prune)
        return changes, await server.apply(changes)


def _documents_part(present: tuple[Registration, ...]) -> list[Registration]:
    """Without the daemons' own entries, which no document stands for."""
    return [each for each in present if not each.spiffe_id.path.startswith(_SYSTEM_PATH)]


def _finish(
    context: click.Context, changes: RegistrationChanges, outcomes: tuple[Outcome, ...], *, as_json: bool
) -> None:
    failed = [each for each in outcomes if each.error]
    if as_json:
        listed = [{"action": each.action, "entry_id": each.entry_id, "error": each.error} for each in outcomes]
        print_json({**_changes_json(changes), "outcomes": listed})
    else:
        _print_changes(changes, as_json=False)
        if outcomes:
            click.echo(f"{len(outcomes) - len(failed)} of {format_count(len(outcomes), 'change')} made")
        for each in failed:
            click.secho(f"  {each.action} {each.entry_id}: {each.error}", fg="red")
    if failed:
        context.exit(EXIT_UNAVAILABLE)


def _hint_apply(*, as_json: bool) -> None:
    if not as_json:
        click.secho("nothing was changed: --apply does it", fg="cyan")


def _print_changes(changes: RegistrationChanges, *, as_json: bool) -> None:
    if as_json:
        print_json({**_changes_json(changes), "outcomes": []})
        return
    if not changes:
        click.echo("no difference")
    for sign, colour, listed in (
        ("+", "green", changes.create),
        ("~", "yellow", tuple(each for _, each in changes.update)),
        ("-", "red", changes.delete),
    ):
        for each in listed:
            click.secho(f"{sign} {each.spiffe_id}  {each.entry_id}", fg=colour)
            for kind, value in sorted(each.selectors):
                click.echo(f"    {kind}:{value}")


def _changes_json(changes: RegistrationChanges) -> dict[str, Any]:
    return {
        "create": [_as_json(each) for each in changes.create],
        "update": [_as_json(each) for _, each in changes.update],
        "delete": [_as_json(each) for each in changes.delete],
    }


def _as_json(registration: Registration) -> dict[str, Any]:
    return {
        "entry_id": registration.entry_id,
        "spiffe_id": str(registration.spiffe_id),
        "parent_id": str(registration.parent_id),
        "selectors": [f"{kind}:{value}" for kind, value in sorted(registration.selectors)],
        "hint": registration.hint,
        "x509_svid_ttl": registration.x509_svid_ttl_s,
        "jwt_svid_ttl": registration.jwt_svid_ttl_s,
    }
