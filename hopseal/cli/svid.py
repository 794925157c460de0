"""``hopseal svid``: what the SPIFFE Workload API gives to this very process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from hopseal.cli.lazy import LazyGroup
from hopseal.cli.options import DEFAULT_WORKLOAD_SOCKET
from hopseal.cli.output import format_until, json_option, print_json, print_table
from hopseal.cli.svid_files import write_snapshot
from hopseal.cli.workload import fetch_jwt_svids, fetch_x509, watch_x509
from hopseal.snapshot import IdentitySnapshot

_endpoint_option = click.option(
    "--endpoint",
    envvar="SPIFFE_ENDPOINT_SOCKET",
    default=f"unix://{DEFAULT_WORKLOAD_SOCKET}",
    show_default=True,
    show_envvar=True,
    help="The Workload API.",
)
_write_option = click.option(
    "--write", "folder", type=click.Path(path_type=Path), help="Write PEM files into this folder, keys with mode 0600."
)


@click.group(cls=LazyGroup)
def svid() -> None:
    """SVIDs and bundles, fetched as this process: a shell is a component like any other.

    \b
    Example:
      hopseal svid fetch
    """


@svid.command()
@click.option("--audience", "audiences", multiple=True, help="Fetch JWT-SVIDs for this audience instead.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 3600), default=10.0, show_default=True)
@_write_option
@_endpoint_option
@json_option
def fetch(audiences: tuple[str, ...], timeout_s: float, folder: Path | None, endpoint: str, *, as_json: bool) -> None:
    """Fetch the X.509-SVIDs and bundles (or JWT-SVIDs) of this process once.

    Files: svid.N.pem, svid.N.key and bundle.N.pem, one set for each identity. Keys are never printed.

    \b
    Example:
      hopseal svid fetch --write ./svid
      hopseal svid fetch --audience reports --json
    """
    if audiences:
        found = asyncio.run(fetch_jwt_svids(endpoint, audiences, timeout_s))
        rows = [{"spiffe_id": str(each.spiffe_id), "hint": each.hint, "token": each.token} for each in found]
        if as_json:
            print_json(rows)
        else:
            click.echo("\n".join(row["token"] for row in rows))
        return
    _show(asyncio.run(fetch_x509(endpoint, timeout_s)), folder, as_json=as_json)


@svid.command()
@_write_option
@_endpoint_option
@json_option
def watch(folder: Path | None, endpoint: str, *, as_json: bool) -> None:
    """Follow the X.509-SVIDs and bundles of this process; each rotation replaces the files at once.

    \b
    Example:
      hopseal svid watch --write /run/my-service/svid
    """
    asyncio.run(_follow(endpoint, folder, as_json=as_json))


async def _follow(endpoint: str, folder: Path | None, *, as_json: bool) -> None:
    async for snapshot in watch_x509(endpoint):
        await asyncio.to_thread(_show, snapshot, folder, as_json=as_json)


def _show(snapshot: IdentitySnapshot, folder: Path | None, *, as_json: bool) -> None:
    if folder is not None:
        write_snapshot(snapshot, folder)
    if as_json:
        print_json(_as_json(snapshot))
        return
    print_table(
        ("spiffe id", "expires in", "hint"),
        [(each.spiffe_id, format_until(each.expires_at), each.hint) for each in snapshot.svids],
    )
    names = ", ".join(f"{bundle.trust_domain.name} ({len(bundle.x509_authorities)})" for bundle in snapshot.bundles)
    click.echo(f"bundles: {names}")
    if folder is not None:
        click.echo(f"written to {folder}")


def _as_json(snapshot: IdentitySnapshot) -> dict[str, Any]:
    return {
        "svids": [
            {"spiffe_id": str(each.spiffe_id), "expires_at": each.expires_at, "hint": each.hint}
            for each in snapshot.svids
        ],
        "bundles": [
            {"trust_domain": bundle.trust_domain.name, "x509_authorities": len(bundle.x509_authorities)}
            for bundle in snapshot.bundles
        ],
    }
