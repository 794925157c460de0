"""``hopseal audit search``: calls in broker logs, as a table. Nothing is verified: it shows where to look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hopseal.cli.audit_text import moment
from hopseal.cli.lazy import EXIT_NO
from hopseal.cli.log_folders import LogFolder, open_log_folders
from hopseal.cli.options import log_option
from hopseal.cli.output import escape_unprintable, format_count, json_option, print_json, print_table, short_id
from hopseal.cli.selecting import selecting_options, selection_of
from hopseal.custody.record import Record, parse_sealed_record
from hopseal.errors import HopsealError
from hopseal.log.entries import CallEntry, Direction, RecordEntry, StatementEntry, StatementKind, parse_entry
from hopseal.log.reader import records_of
from hopseal.log.selection import ChainNotes, Selection
from hopseal.log.without_custody import may_lack_custody

_COLUMNS = ("at", "caller", "callee", "operation", "task", "user", "chain", "hop", "dir", "custody", "verdict", "log")


@click.command()
@selecting_options
@click.option("--refused", is_flag=True, help="Only messages that were refused.")
@click.option("-n", "--limit", type=click.IntRange(1), default=1_000, show_default=True, help="At most so many.")
@log_option
@json_option
@click.pass_context
def search(
    context: click.Context,
    /,
    *,
    cids: tuple[str, ...],
    tasks: tuple[str, ...],
    components: tuple[str, ...],
    users: tuple[str, ...],
    since: int | None,
    until: int | None,
    refused: bool,
    limit: int,
    logs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Find calls in broker logs: a row for each entry, oldest first. Exits 1 if there is none.

    Nothing is verified here: export the chain and verify the evidence.

    \b
    Example:
      hopseal audit search --component crm-assistant/reasoner --since 2h
      hopseal audit search --user user-4711 --log ./node-1 --log ./node-2 --json
    """
    selection = selection_of(cids, tasks, components, users, since, until)
    found = find_rows(open_log_folders(logs), selection, refused=refused)
    found.sort(key=lambda row: (row["at"], row["log"], row["n"]))
    if as_json:
        print_json(found[-limit:])
    elif found:
        print_table(_COLUMNS, [_cells(row) for row in found[-limit:]])
    else:
        click.echo(f"no such call in {format_count(len(logs), 'log')}")
    if not found:
        context.exit(EXIT_NO)


def find_rows(folders: Sequence[LogFolder], selection: Selection, *, refused: bool) -> list[dict[str, Any]]:
    """A row for each record entry that fits; two passes, since the root may stand in another log."""
    notes, observed = ChainNotes(), set()
    for folder in folders:
        for _, text in folder.lines():
            if b'"rec"' in text:
                notes.add(records_in(text))
            if b'"obs"' in text:
                observed.add(_observed_in(text))
    lines = ((folder.origin, text) for folder in folders for _, text in folder.lines())
    rows = (
        row_of(text, origin, selection, notes, observed) or call_row_of(text, origin, selection)
        for origin, text in lines
    )
    return [row for row in rows if row is not None and (row["verdict"] == "refused" or not refused)]


def records_in(text: bytes) -> list[Record]:
    """The records in a log's line, ancestors first."""
    entry = _record_entry(text)
    return list(records_of(entry)) if entry else []


def row_of(
    text: bytes, origin: str, selection: Selection, notes: ChainNotes, observed: set[str | None] | None = None
) -> dict[str, Any] | None:
    """The row of a log's line; None if it is of no record, or does not fit.

    Args:
        text: JSON of the line.
        origin: of the log.
        selection: what is asked for.
        notes: tasks and users of chains.
        observed: hashes of the records whose answers were observed; None while answers are still to come.
    """
    entry = _record_entry(text)
    records = list(records_of(entry)) if entry else []
    if entry is None or not records:
        return None
    newest = records[-1]
    task, user = notes.get(newest.cid)
    if not selection.fits_record(newest) or not selection.fits_chain(task, user):
        return None
    return {
        "at": newest.iat,
        "caller": str(newest.iss),
        "callee": newest.aud,
        "operation": newest.op,
        "task": task,
        "user": user,
        "cid": newest.cid,
        "hop": newest.hop,
        "jti": newest.jti,
        "direction": str(entry.direction),
        "custody": "none" if _lacks_custody(entry, newest, observed) else "full",
        "verdict": "accepted" if entry.accepted else "refused",
        "code": entry.code,
        "log": origin,
        "n": entry.n,
    }


def call_row_of(text: bytes, origin: str, selection: Selection) -> dict[str, Any] | None:
    """The row of a call that no record tells of: of a peer without custody; a tunnel has a record."""
    if b'"call"' not in text:
        return None
    try:
        entry = parse_entry(text)
    except HopsealError:
        return None
    at = entry.at_ms // 1_000
    if not isinstance(entry, CallEntry) or entry.phase != "begin" or not selection.fits_call(entry.cid, at, entry):
        return None
    return {
        "at": at,
        "caller": entry.iss,
        "callee": entry.aud,
        "operation": entry.op,
        "task": None,
        "user": None,
        "cid": entry.cid,
        "hop": None,
        "jti": None,
        "direction": str(entry.direction),
        "custody": "none",
        "verdict": "accepted" if entry.accepted else "refused",
        "code": entry.code,
        "log": origin,
        "n": entry.n,
    }


def _lacks_custody(entry: RecordEntry, record: Record, observed: set[str | None] | None) -> bool:
    if entry.direction is not Direction.SENT or not may_lack_custody(record):
        return False
    if observed is None or not record.aud.startswith("spiffe://"):
        return True
    return entry.sealed is not None and parse_sealed_record(entry.sealed).hash in observed


def _observed_in(text: bytes) -> str | None:
    """The hash of the record whose answer a line observes."""
    try:
        entry = parse_entry(text)
    except HopsealError:
        return None
    is_observation = isinstance(entry, StatementEntry) and entry.kind is StatementKind.OBSERVATION
    return entry.rec if is_observation and isinstance(entry, StatementEntry) else None


def _record_entry(text: bytes) -> RecordEntry | None:
    try:
        entry = parse_entry(text)
    except HopsealError:
        return None
    return entry if isinstance(entry, RecordEntry) else None


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    verdict = escape_unprintable(row["code"] or row["verdict"])
    texts = (row["operation"], row["task"], row["user"])
    operation, task, user = (escape_unprintable(text) if text else None for text in texts)
    parties = (short_id(row["caller"]), short_id(row["callee"]))
    log = row["log"].rpartition("/")[2]
    places = (row["cid"], row["hop"], row["direction"], row["custody"])
    return (moment(row["at"]), *parties, operation, task, user, *places, verdict, log)
