"""``hopseal audit compare``: the logs of nodes against each other."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hopseal.cli.audit_text import moment
from hopseal.cli.lazy import EXIT_NO
from hopseal.cli.log_folders import open_log_folders
from hopseal.cli.output import escape_unprintable, format_count, json_option, print_json, print_table, short_id
from hopseal.log.compare import Difference, Disagreement, compare_logs

_TEXTS = {
    Difference.NOT_RECEIVED: "sent, and not in the receiver's log",
    Difference.NOT_SENT: "received, and not in the sender's log",
    Difference.NO_RECEIPT: "no receipt in any log",
    Difference.RECEIPT_NOT_RECEIVED: "the receipt is not in the caller's log",
    Difference.RECEIPT_NOT_SENT: "the receipt is not in the callee's log",
    Difference.RECEIPTS_DIFFER: "two receipts say different things",
    Difference.REPLAYED: "accepted more than once",
    Difference.JTI_REUSED: "another record of its issuer has the same jti",
}


@click.command()
@click.argument("logs", type=click.Path(path_type=Path), nargs=-1, required=True)
@json_option
@click.pass_context
def compare(context: click.Context, /, *, logs: tuple[Path, ...], as_json: bool) -> None:
    """Compare broker LOGS with each other: what one says it sent and another does not say it received, and back.

    Finds dangling records, records without receipts, replays across replicas, and receipts that differ. Seals are not
    verified here: it shows what to export and verify. Give the logs of all nodes that talk to each other; one alone is
    compared with itself. Exits 1 if there is a difference.

    \b
    Example:
      hopseal audit compare ./node-1 ./node-2
    """
    found = compare_logs([folder.source(None) for folder in open_log_folders(logs)])
    if as_json:
        print_json([asdict(each) | {"kind": str(each.kind)} for each in found])
    elif found:
        print_table(("at", "caller", "callee", "operation", "chain", "difference"), map(_row, found))
    else:
        click.echo(f"no difference between {format_count(len(logs), 'log')}")
    if found:
        context.exit(EXIT_NO)


def _row(each: Disagreement) -> tuple[object, ...]:
    operation = escape_unprintable(each.op) if each.op else None
    parties = (short_id(each.iss), short_id(each.aud))
    return (moment(each.iat), *parties, operation, each.cid, _TEXTS[each.kind])
