"""``hopseal audit check``: a node's journal beside its Merkle log."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import click

from hopseal.cli.log_folders import CHECKPOINT, LogFolder, open_log_folders, unreadable
from hopseal.cli.options import log_option
from hopseal.cli.output import format_count, json_option, paint_state, print_json
from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.checkpoint import Checkpoint, parse_signed_checkpoint
from hopseal.log.journal_check import JournalCheck, check_journal
from hopseal.log.log_key import verify_log_signature
from hopseal.log.note import parse_vkey

_TILE_CACHE = 16
_NAMED = 10  # entries that are named; the others are counted


@click.command()
@log_option
@click.option("--key", "vkey", help="The log's vkey, as the witness or a policy has it: the checkpoint must be its.")
@json_option
def check(logs: tuple[Path, ...], vkey: str | None, *, as_json: bool) -> None:
    """Compare a node's journal with the Merkle log that was made of it: every entry, not only the last ones.

    Finds entries that were changed, removed or added after they were signed, whatever their checksums say. What it
    compares with is the checkpoint in the node's folder: give --key, or compare that with a witness's.

    \b
    Example:
      hopseal audit check --log /var/lib/hopseal/broker/log
    """
    found = [(path, _compare(folder, vkey)) for path, folder in zip(logs, open_log_folders(logs), strict=True)]
    if as_json:
        print_json([{"log": str(path), **_as_json(comparison)} for path, comparison in found])
    else:
        for path, comparison in found:
            _print(path, comparison)
    if not all(comparison.holds for _, comparison in found):
        raise SystemExit(1)


def _compare(folder: LogFolder, vkey: str | None) -> JournalCheck:
    load = lru_cache(maxsize=_TILE_CACHE)(folder.read_tile)
    return check_journal(folder.lines(), _checkpoint(folder, vkey), load)


def _checkpoint(folder: LogFolder, vkey: str | None) -> Checkpoint:
    path = (folder.tlog or Path()) / CHECKPOINT
    if folder.tlog is None or not path.is_file():
        raise UnavailableError(
            "log_unsigned", f"nothing is published of {folder.origin}", remedy="let the broker sign its log first"
        )
    try:
        unverified = parse_signed_checkpoint(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    if vkey is None:
        return unverified.checkpoint
    key = parse_vkey(vkey)
    if key.name != unverified.checkpoint.origin:
        raise InvalidError("vkey_invalid", f"the key is not one of {folder.origin}", remedy="give this log's key")
    return verify_log_signature(unverified, [key]).checkpoint


def _as_json(found: JournalCheck) -> dict[str, Any]:
    return {
        "holds": found.holds,
        "size": found.size,
        "first": found.first,
        "unsigned": found.unsigned,
        "changed": list(found.changed),
        "missing": list(found.missing),
        "tiles_problem": found.tiles_problem,
    }


def _print(path: Path, found: JournalCheck) -> None:
    state = paint_state("verified" if found.holds else "not verified")
    pruned = f", from entry {found.first}" if found.first else ""
    click.echo(f"{path}: {state}: {format_count(found.size, 'entry')} signed{pruned}, {found.unsigned} not yet")
    for what, numbers in (("changed", found.changed), ("missing", found.missing)):
        if numbers:
            named = ", ".join(map(str, numbers[:_NAMED]))
            more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
            click.secho(f"  {what}: {named}{more}", fg="red")
    if found.tiles_problem:
        click.secho(f"  tiles: {found.tiles_problem}", fg="red")
