"""Options that choose chains out of logs: by chain, task, component, user, time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from hopseal.log.selection import Selection

_F = TypeVar("_F", bound=Callable[..., Any])
_AGO = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Moment(click.ParamType[int]):
    """A time: ISO 8601 (UTC unless it says otherwise), seconds since 1970, or how long ago (30m, 2h, 7d)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds since 1970."""
        text = str(value)
        ago = _AGO.fullmatch(text)
        if ago:
            return int(time.time()) - int(ago[1]) * _UNITS[ago[2]]
        if text.isascii() and text.isdecimal():
            return int(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is no time: write 2026-11-28T12:00, 1795348800, or 2h for two hours ago", param, ctx)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def selecting_options(function: _F) -> _F:
    """``--cid``, ``--task``, ``--component``, ``--user``, ``--since``, ``--until``."""
    options = (
        click.option("--cid", "cids", multiple=True, help="Chain ID."),
        click.option("--task", "tasks", multiple=True, help="Task ID."),
        click.option(
            "--component", "components", multiple=True, help="Caller or callee: AGENT/COMPONENT, or a SPIFFE ID."
        ),
        click.option("--user", "users", multiple=True, help="Subject of the user on whose behalf."),
        click.option("--since", type=Moment(), help="Records from then on: ISO 8601, epoch seconds, or 2h, 7d ago."),
        click.option("--until", type=Moment(), help="Records up to then."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def selection_of(
    cids: tuple[str, ...],
    tasks: tuple[str, ...],
    components: tuple[str, ...],
    users: tuple[str, ...],
    since: int | None,
    until: int | None,
) -> Selection:
    """The selection that the options make; without any, everything."""
    return Selection(frozenset(cids), frozenset(tasks), frozenset(components), frozenset(users), since, until)
