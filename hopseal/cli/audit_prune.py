"""``hopseal audit prune``: delete old files of a broker's log; ``hopseal audit key``: the key of a broker's log.

Owns: what may go is shown before anything goes. Does not own: the rule (``hopseal.log.segments``).
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from hopseal.cli.admin import AdminClient
from hopseal.cli.log_folders import CHECKPOINT, TLOG_FOLDER, unreadable
from hopseal.cli.options import DEFAULT_LOG, broker_socket_option
from hopseal.cli.output import format_count, json_option, print_json
from hopseal.cli.selecting import Moment
from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.entries import LogError, read_payload
from hopseal.log.segments import CURRENT, ClosedSegment, choose_prunable, order_segments, parse_closed_name

YOUNGEST_S = 3600  # a start reads back what can still be replayed, and clocks may be wrong by a while
_MS = 1_000


@click.command()
@click.option(
    "--log",
    "folder",
    type=click.Path(path_type=Path),
    envvar="HOPSEAL_LOG",
    default=DEFAULT_LOG,
    show_default=True,
    show_envvar=True,
    help="The log folder of one broker.",
)
@click.option("--before", type=Moment(), required=True, help="Only files whose every entry is older: 2026-06-01, 180d.")
@click.option("--yes", is_flag=True, help="Delete them; without it they are only named.")
@json_option
def prune(folder: Path, before: int, *, yes: bool, as_json: bool) -> None:
    """Delete old files of a broker's log, for good; the Merkle log keeps their hashes, and proofs stay good.

    Only whole, full files go, oldest first, and only what the published checkpoint covers. Export what must be kept
    before: hopseal audit export.

    \b
    Example:
      hopseal audit prune --log /var/lib/hopseal/broker/log --before 180d
      hopseal audit prune --log /var/lib/hopseal/broker/log --before 180d --yes
    """
    if before > time.time() - YOUNGEST_S:
        raise InvalidError(
            "before_too_young", "entries of the last hour are never deleted", remedy="give an older time"
        )
    chosen, why = choose_prunable(_closed(folder), before_ms=before * _MS, covered=_covered(folder))
    if yes:
        _delete(folder, chosen)
    if as_json:
        found = [{"file": each.name, "first": each.first_n, "entries": each.end_n - each.first_n} for each in chosen]
        print_json({"files": found, "deleted": yes, "stopped_by": why})
        return
    for each in chosen:
        newest = datetime.fromtimestamp((each.newest_ms or 0) / _MS, UTC).strftime("%Y-%m-%d %H:%M")
        click.echo(f"{each.name}  {format_count(each.end_n - each.first_n, 'entry')}, newest {newest} UTC")
    verb = "deleted" if yes else "would go; delete them with --yes"
    click.echo(f"{format_count(len(chosen), 'file')} {verb}" + (f"; {why}" if why else ""))


@click.command()
@broker_socket_option
@json_option
def key(broker_socket: Path, *, as_json: bool) -> None:
    """Print the key of this node's log as a vkey: for witnesses, and for an auditor's policy.

    \b
    Example:
      hopseal audit key
    """
    log = AdminClient("broker", broker_socket).get("/v1/status").get("audit") or {}
    if not log.get("vkey"):
        raise UnavailableError("log_key_unknown", "this broker keeps no signed log", remedy="upgrade the broker")
    if as_json:
        print_json({"origin": log["origin"], "vkey": log["vkey"]})
        return
    click.echo(log["vkey"])


def _closed(folder: Path) -> list[ClosedSegment]:
    try:
        names = order_segments(each.name for each in folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error
    if not names or names[-1] != CURRENT:
        raise UnavailableError("log_unreadable", f"{folder} holds no {CURRENT}", remedy="name a broker's log folder")
    firsts = [first_n for name in names if (first_n := parse_closed_name(name)) is not None]
    # What the growing file begins with is not needed: the last full one is only told from it by its end.
    ends = [*firsts[1:], _first_n(folder / CURRENT)]
    return [
        ClosedSegment(name, first_n, end_n, _newest_ms(folder / name))
        for name, first_n, end_n in zip(names, firsts, ends, strict=False)
    ]


def _first_n(path: Path) -> int:
    """The number of the first entry; of an empty file more than any checkpoint covers."""
    try:
        with path.open("rb") as file:
            return int(json.loads(read_payload(file.readline().rstrip(b"\n")))["n"])
    except OSError as error:
        raise unreadable(path, error) from error
    except (LogError, ValueError, KeyError, TypeError):
        return 1 << 63


def _newest_ms(path: Path) -> int | None:
    newest = 0
    try:
        with path.open("rb") as file:
            for line in file:
                newest = max(newest, int(json.loads(read_payload(line.rstrip(b"\n")))["at_ms"]))
    except OSError as error:
        raise unreadable(path, error) from error
    except (LogError, ValueError, KeyError, TypeError):
        return None
    return newest


def _covered(folder: Path) -> int:
    """Leaves under the published checkpoint of the log beside the folder."""
    path = folder.parent / TLOG_FOLDER / CHECKPOINT
    try:
        return parse_signed_checkpoint(path.read_bytes()).checkpoint.size
    except FileNotFoundError as error:
        raise UnavailableError(
            "log_unsigned", f"{path} is not there: nothing is published yet", remedy="let the broker sign its log first"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _delete(folder: Path, chosen: tuple[ClosedSegment, ...]) -> None:
    """Oldest first, so that an interruption leaves no gap."""
    try:
        for each in chosen:
            (folder / each.name).unlink()
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnavailableError(
            "log_unwritable", f"{error.filename}: {error.strerror}", remedy="run it as root or the broker's user"
        ) from error
