"""Printing: one JSON shape, or a table: with colour on a terminal, plain text in a pipe."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])
_AGENTS = "/agents/"

STATE_COLOURS = {
    "attested": "green", "yes": "green", "healthy": "green", "accepted": "green", "verified": "green",
    "active": "green", "ok": "green",
    "drifted": "red", "refused": "red", "unhealthy": "red", "no": "red", "not verified": "red",
    "failed": "red", "warning": "yellow", "skipped": "bright_black",
    "suspended": "yellow", "retired": "yellow", "unreadable": "yellow", "unknown": "yellow", "absent": "yellow",
    "gone": "bright_black",
}  # fmt: skip


def json_option(function: _F) -> _F:
    """``--json``, passed as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")(function)


def print_json(data: object) -> None:
    """``data`` as indented JSON."""
    lines = json.dumps(data, indent=2, ensure_ascii=False).split("\n")
    click.echo("\n".join(map(_escape_json, lines)))


def format_json_line(data: object) -> str:
    """``data`` as JSON in one line."""
    return _escape_json(json.dumps(data, ensure_ascii=False))


def _escape_json(line: str) -> str:
    """Without characters that a terminal would act on: JSON itself lets through those from U+007F on."""
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; in a pipe its columns are as wide as their widest cell, so that grep and awk can read it."""
    cells = [[_text(cell) for cell in row] for row in rows]
    if is_terminal():
        _print_rich(columns, cells)
        return
    lines = [[name.upper() for name in columns], *cells]
    widths = [max(len(row[index]) for row in lines) for index in range(len(columns))]
    for row in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_rich(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich import box  # noqa: PLC0415 - only a terminal pays for it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*[name.upper() for name in columns], box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for row in cells:
        table.add_row(*[Text(cell, style=STATE_COLOURS.get(cell, "")) for cell in row])
    Console().print(table)


def paint_state(state: str) -> str:
    """The state in its colour; click removes colours where standard output is no terminal."""
    return click.style(state, fg=STATE_COLOURS.get(state), bold=True)


def format_count(number: int, noun: str) -> str:
    """``1 agent``, ``2 agents``, ``2 entries``, ``2 witnesses``."""
    plural = noun.removesuffix("y") + "ies" if noun.endswith("ry") else noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"


def format_age(seconds: float) -> str:
    """A duration in its largest fitting unit: 12s, 5m, 3h, 2d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if abs(seconds) >= size:
            return f"{int(seconds / size)}{unit}"
    return f"{int(seconds)}s"


def format_since(at: float | None, *, now: float | None = None) -> str:
    """How long ago ``at`` (epoch seconds) was; a dash if unknown."""
    return "-" if not at else format_age((time.time() if now is None else now) - at)


def format_until(at: float | None, *, now: float | None = None) -> str:
    """How long until ``at`` (epoch seconds); a dash if unknown."""
    if not at:
        return "-"
    left = at - (time.time() if now is None else now)
    return format_age(left) if left > 0 else "expired"


def escape_unprintable(text: str) -> str:
    """``text`` with every character that is not printable written as its escape."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def _text(cell: object) -> str:
    return "-" if cell is None or not str(cell) else str(cell)


def short_id(spiffe_id: str | None) -> str:
    """``agent/component`` of a SPIFFE ID of the usual form, else the text itself."""
    text = spiffe_id or "?"
    return text.partition(_AGENTS)[2] or text
