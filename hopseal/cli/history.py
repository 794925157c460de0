"""``hopseal status --history``: what components were, became, and why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import click

from hopseal.cli.admin import AdminClient
from hopseal.cli.output import format_count, print_json, print_table

_SHORT_DIGEST = len("sha256:") + 12


def show_history(client: AdminClient, component: str, limit: int, *, as_json: bool) -> None:
    """Print the newest ``limit`` changes of ``component``, or of all if it is empty.

    Raises:
        HopsealError: the attestor does not answer, or knows no such component.
    """
    asked = {"component": component} if component else {}
    found = client.get("/v1/history", {**asked, "limit": limit})
    if as_json:
        print_json(found)
        return
    if found["changes"]:
        print_table(("at", "component", "state", "code", "pid", "why"), map(_row, found["changes"]))
    else:
        click.echo("nothing has changed yet")
    if found["unreadable"]:
        click.secho(f"  ! {format_count(found['unreadable'], 'line')} of the history cannot be read", fg="yellow")


def _row(change: dict[str, Any]) -> tuple[object, ...]:
    at = dt.datetime.fromtimestamp(change["at"], dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if "lost" in change:
        missing = format_count(change["lost"], "change")
        return (at, change["component"], "unknown", None, None, f"{missing} before this could not be kept")
    why = "; ".join(_differences(change))
    return (at, change["component"], change["state"], change["code"], change["pid"], why)


def _differences(change: dict[str, Any]) -> Iterator[str]:
    for item in change["items"]:
        if not item["holds"]:
            compared = f"{item['item']}: approved {_values(item['approved'])}, measured {_values(item['measured'])}"
            yield f"{compared} ({item['detail']})" if item["detail"] else compared
    if change.get("items_left_out"):
        yield f"{format_count(change['items_left_out'], 'item')} too long to keep"


def _values(values: list[str]) -> str:
    short = (value[:_SHORT_DIGEST] if value.startswith("sha256:") else value for value in values)
    return " or ".join(short) or "nothing"
