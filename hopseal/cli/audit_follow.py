"""``hopseal audit follow``: new calls as brokers log them, over several logs at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from hopseal.cli.audit_search import records_in, row_of
from hopseal.cli.audit_text import moment
from hopseal.cli.followed_log import FollowedLog
from hopseal.cli.log_folders import open_log_folders
from hopseal.cli.options import log_option
from hopseal.cli.output import escape_unprintable, format_json_line, json_option, paint_state, short_id
from hopseal.cli.selecting import selecting_options, selection_of
from hopseal.custody.encoding import encode_json
from hopseal.log.selection import ChainNotes

POLL_S = 0.5


@click.command()
@selecting_options
@click.option("-n", "--limit", type=click.IntRange(1), help="End after so many calls.")
@log_option
@json_option
def follow(
    *,
    cids: tuple[str, ...],
    tasks: tuple[str, ...],
    components: tuple[str, ...],
    users: tuple[str, ...],
    since: int | None,
    until: int | None,
    limit: int | None,
    logs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Print calls as brokers log them, from now on, until interrupted. JSON is one object a line.

    \b
    Example:
      hopseal audit follow --log ./node-1 --log ./node-2
      hopseal audit follow --task task-1 --json | jq .operation
    """
    selection = selection_of(cids, tasks, components, users, since, until)
    left, notes = limit, ChainNotes()
    with ExitStack() as stack:
        followed = [(FollowedLog(stack, folder.journal), folder.origin) for folder in open_log_folders(logs)]
        for text, _ in _fresh(followed):
            notes.add(records_in(text))
        while left is None or left > 0:
            fresh = _fresh(followed)
            for text, _ in fresh:
                notes.add(records_in(text))
            found = (row_of(text, origin, selection, notes) for text, origin in fresh)
            rows = [row for row in found if row is not None]
            for row in rows[:left]:
                click.echo(format_json_line(row) if as_json else _describe(row))
            left = None if left is None else left - len(rows[:left])
            if not rows:
                time.sleep(POLL_S)


def _fresh(followed: Sequence[tuple[FollowedLog, str]]) -> list[tuple[bytes, str]]:
    """The JSON texts of what was appended since the last look, with the origins of their logs."""
    return [(encode_json(entry), origin) for log, origin in followed for entry in log.entries()]


def _describe(row: dict[str, object]) -> str:
    parties = f"{short_id(str(row['caller']))} → {short_id(str(row['callee']))}"
    verdict = paint_state(str(row["verdict"]))
    why = escape_unprintable(f"  {row['code']}") if row["code"] else ""
    at = moment(int(str(row["at"])))
    text = f"{row['direction']}  {parties}  {row['operation'] or '?'}  chain {row['cid']} hop {row['hop']}"
    return (
        f"{at}  {verdict} {escape_unprintable(text)}  on {escape_unprintable(str(row['log']).rpartition('/')[2])}{why}"
    )
