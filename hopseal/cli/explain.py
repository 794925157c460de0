"""``hopseal explain``: approved against measured, item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hopseal.cli.admin import AdminClient
from hopseal.cli.lazy import EXIT_NO
from hopseal.cli.options import attestor_socket_option
from hopseal.cli.output import format_since, json_option, paint_state, print_json, print_table

_SHORT_DIGEST = len("sha256:") + 12


@click.command()
@click.argument("component_or_pid")
@click.option("--full", is_flag=True, help="Print digests in full.")
@json_option
@attestor_socket_option
@click.pass_context
def explain(context: click.Context, component_or_pid: str, attestor_socket: Path, *, full: bool, as_json: bool) -> None:
    """Explain the state of a component (AGENT/COMPONENT) or of the process PID.

    Shows what was approved against what was measured, which layer refused and what to do next.
    Exits 0 if it is attested, else 1.

    \b
    Example:
      hopseal explain crm-assistant/reasoner
      hopseal explain 4711 --json
    """
    key = "pid" if component_or_pid.isdecimal() else "component"
    client = AdminClient("attestor", attestor_socket)
    found = client.get("/v1/explain", {key: component_or_pid})
    if as_json:
        print_json(found)
    else:
        _print(found, full=full)
    if found["state"] != "attested":
        context.exit(EXIT_NO)


def _print(found: dict[str, Any], *, full: bool) -> None:
    pid = f" (pid {found['pid']})" if found.get("pid") else ""
    name = found.get("component") or "no component"
    since = f" since {format_since(found['since'])}" if found.get("since") else ""
    click.echo(f"{click.style(name, bold=True)}{pid} is {paint_state(found['state'])}{since}")
    if found.get("code"):
        click.echo(f"  {found['code']}: {found.get('message', '')}")
    if found.get("layer") and found["state"] != "attested":
        click.echo(f"  decided by: {found['layer']}")
    if found.get("component") is None and found.get("closest"):
        click.echo(f"  compared with {found['closest']}, which it is closest to")
    alternatives = found.get("alternatives") or []
    if alternatives:
        for number, items in enumerate(alternatives, 1):
            click.echo(f"\nalternative {number} of {len(alternatives)}")
            _print_items(items.get("items", []) if isinstance(items, dict) else items, full=full)
    elif found.get("items"):
        click.echo()
        _print_items(found["items"], full=full)
    if found.get("remedy"):
        click.secho(f"\n→ {found['remedy']}", fg="cyan")


def _print_items(items: list[dict[str, Any]], *, full: bool) -> None:
    print_table(
        ("item", "holds", "approved", "measured", "why"),
        [
            (
                item["item"],
                "yes" if item["holds"] else "no",
                _values(item.get("approved"), full=full),
                _values(item.get("measured"), full=full),
                ": ".join(filter(None, (item.get("code"), item.get("detail")))),
            )
            for item in items
        ],
    )


def _values(values: list[str] | None, *, full: bool) -> str:
    return ", ".join(
        value if full or not value.startswith("sha256:") else value[:_SHORT_DIGEST] for value in values or []
    )
