"""``hopseal status``: the components on this node and the health of both daemons."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hopseal.cli.admin import AdminClient
from hopseal.cli.history import show_history
from hopseal.cli.lazy import EXIT_NO
from hopseal.cli.options import attestor_socket_option, broker_socket_option
from hopseal.cli.output import (
    format_count,
    format_since,
    format_until,
    json_option,
    paint_state,
    print_json,
    print_table,
)
from hopseal.errors import HopsealError


@click.command()
@click.option("--watch", is_flag=True, help="Repeat every two seconds until interrupted.")
@click.option(
    "--history",
    is_flag=False,
    flag_value="",
    metavar="[COMPONENT]",
    help="Show what changed, of AGENT/COMPONENT or of all components, newest last; kept across restarts.",
)
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="With --history: how many changes."
)
@json_option
@attestor_socket_option
@broker_socket_option
@click.pass_context
def status(
    context: click.Context,
    attestor_socket: Path,
    broker_socket: Path,
    history: str | None,
    limit: int,
    *,
    watch: bool,
    as_json: bool,
) -> None:
    """Show what runs on this node and whether it is what was approved.

    Exits 0 if both daemons are healthy, 1 if one is not, 3 if the attestor does not answer.

    \b
    Example:
      hopseal status --watch
      hopseal status --json | jq '.attestor.components[].state'
      hopseal status --history crm-assistant/reasoner
    """
    if history is not None:
        if watch:
            raise click.UsageError("--history shows what was; --watch goes with what is")
        show_history(AdminClient("attestor", attestor_socket), history, limit, as_json=as_json)
        return
    while True:
        report = _fetch(attestor_socket, broker_socket)
        if watch:
            click.clear()
        _print(report, as_json=as_json)
        if not watch:
            break
        time.sleep(2)
    if not report["healthy"]:
        context.exit(EXIT_NO)


def _fetch(attestor_socket: Path, broker_socket: Path) -> dict[str, Any]:
    client = AdminClient("attestor", attestor_socket)
    attestor = client.get("/v1/status")
    broker: dict[str, Any] | None = None
    unreachable: HopsealError | None = None
    try:
        client = AdminClient("broker", broker_socket)
        broker = client.get("/v1/status")
    except HopsealError as error:
        unreachable = error
    problems = list(_problems(attestor, broker, unreachable))
    return {"healthy": not problems, "problems": problems, "attestor": attestor, "broker": broker}


def _problems(
    attestor: dict[str, Any], broker: dict[str, Any] | None, unreachable: HopsealError | None
) -> Iterator[str]:
    yield from (f"attestor: {problem}" for problem in attestor.get("problems", []))
    if not attestor.get("healthy") and not attestor.get("problems"):
        yield "attestor: not healthy"
    mistakes = [
        f"documents: {each['file']}:{each['line']}: {each['message']} ({each['remedy']})"
        for each in attestor.get("documents", {}).get("problems", [])
    ]
    yield from mistakes
    if unreachable is not None:
        yield f"broker: {unreachable.message} ({unreachable.remedy})"
    if broker is not None:
        # Both daemons read the same documents: what is wrong with them is said once.
        yield from (f"broker: {problem}" for problem in broker.get("problems", []) if problem not in mistakes)
        if not broker.get("healthy") and not broker.get("problems"):
            yield "broker: not healthy"


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    attestor, broker = report["attestor"], report["broker"]
    upstream = attestor.get("upstream", {})
    click.echo(
        f"node {click.style(attestor['node'], bold=True)} of {attestor['trust_domain']}, "
        f"{paint_state('healthy' if report['healthy'] else 'unhealthy')}; "
        f"identities from {upstream.get('kind', '?')}; "
        f"documents {str(attestor.get('documents', {}).get('sha256') or 'none')[:12]}; "
        f"broker {'answers' if broker else 'does not answer'}"
    )
    if broker and broker.get("audit"):
        click.echo(_describe_log(broker["audit"]))
    for each in (broker or {}).get("without_custody", []):
        click.echo(_describe_outside(each))
    for problem in report["problems"]:
        click.secho(f"  ! {problem}", fg="yellow")
    click.echo()
    print_table(
        ("component", "role", "state", "since", "pids", "evidence", "svid", "last refusal"),
        _rows(attestor, broker),
    )
    unknown = attestor.get("unknown", [])
    if unknown:
        click.echo()
        print_table(
            ("pid", "uid", "executable", "state", "since"),
            [(each["pid"], each["uid"], each["exe"], "unknown", format_since(each["since"])) for each in unknown],
        )


def _describe_log(audit: dict[str, Any]) -> str:
    witnesses = audit["witnesses"]
    cosigning = sum(each["state"] == "cosigned" for each in witnesses)
    by = f", {cosigning} of {format_count(len(witnesses), 'witness')} cosign" if witnesses else ", no witnesses"
    when = f" {format_since(audit['published_at'])} ago" if audit["published_at"] else ""
    entries = format_count(audit["entries"], "entry")
    return f"log {audit['origin']}: {entries}, {audit['published']} published{when}{by}"


def _describe_outside(opened: dict[str, Any]) -> str:
    """What a document opens to parties that know nothing of custody."""
    parts = [
        f"{what} {', '.join(opened[key])}"
        for key, what in (("calls", "calls"), ("tunnels", "has tunnels to"), ("called_by", "is called by"))
        if opened[key]
    ]
    return f"without custody: {opened['component']} {'; '.join(parts)}"


def _rows(attestor: dict[str, Any], broker: dict[str, Any] | None) -> Iterator[tuple[object, ...]]:
    expiries = _broker_expiries(broker)
    for component in attestor.get("components", []):
        instances = component.get("instances", [])
        name = component["component"]
        refusal = component.get("last_refusal")
        expires = [each["svid_expires_at"] for each in instances if each.get("svid_expires_at")]
        yield (
            name,
            component["role"],
            component["state"],
            format_since(component["since"]),
            ",".join(str(pid) for each in instances for pid in each["pids"]),
            _evidence(instances),
            _svid(component, max(expires, default=expiries.get(name))),
            f"{refusal['code']}, {format_since(refusal['at'])} ago" if refusal else None,
        )


def _svid(component: dict[str, Any], expires_at: int | None) -> str:
    """Until when. Who may fetch its key can call without the broker; the broker itself, which has no role, must."""
    has_key = component["role"] and component["svid"] != "broker"
    if not has_key:
        return format_until(expires_at)
    return f"{format_until(expires_at)}, own key" if expires_at else "own key"


def _evidence(instances: list[dict[str, Any]]) -> str | None:
    measured = [each["measured_at"] for each in instances if each.get("measured_at")]
    return f"{format_since(max(measured))} ago" if measured else None


def _broker_expiries(broker: dict[str, Any] | None) -> dict[str, int]:
    return {each["component"]: each["svid_expires_at"] for each in (broker or {}).get("identities", [])}
