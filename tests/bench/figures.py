"""Figures of a benchmark: collected over rounds, shown as a table, kept as JSON."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path("build") / "bench.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure beside its peer's; ``ratio`` is the median over rounds of value / peer_value."""

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float
    target: float | None
    holds: bool | None
    rounds: int


def figure(
    name: str,
    unit: str,
    peer: str,
    rounds: Sequence[tuple[float, float]],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """The figure over ``rounds`` of (ours, peer's); ``at_most`` or ``at_least`` bounds the ratio."""
    ratio = statistics.median(ours / theirs for ours, theirs in rounds)
    return Figure(
        name=name,
        value=statistics.median(ours for ours, _ in rounds),
        unit=unit,
        peer=peer,
        peer_value=statistics.median(theirs for _, theirs in rounds),
        ratio=ratio,
        target=at_most if at_least is None else at_least,
        holds=_holds(ratio, at_most, at_least),
        rounds=len(rounds),
    )


def _holds(ratio: float, at_most: float | None, at_least: float | None) -> bool | None:
    if at_most is None and at_least is None:
        return None
    return (at_most is None or ratio <= at_most) and (at_least is None or ratio >= at_least)


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print ``figures`` as a table."""
    table = Table(title=title)
    for column in ("what", "Hopseal", "peer", "", "ratio", "target", "rounds"):
        table.add_column(column, justify="left" if column in {"what", ""} else "right")
    for each in figures:
        ours, theirs = f"{each.value:,.2f} {each.unit}", f"{each.peer_value:,.2f} {each.unit}"
        target = {None: "", True: "met", False: "missed"}[each.holds]
        table.add_row(each.name, ours, theirs, each.peer, f"{each.ratio:.2f}", target, str(each.rounds))
    Console(width=120).print(table)


def keep(name: str, figures: Sequence[Figure]) -> None:
    """Write the figures of one benchmark, beside what others left there."""
    RESULTS.parent.mkdir(exist_ok=True)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [row for row in rows if row.get("benchmark", name) != name]
    rows += [{"benchmark": name, **dataclasses.asdict(each)} for each in figures]
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
