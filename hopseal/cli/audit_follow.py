"""``hopseal audit follow``: new calls as brokers log them, over several logs at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import click

from hopseal.cli.audit_search import records_in, row_of
from hopseal.cli.audit_text import clean, moment
from hopseal.cli.chain import short_id
from hopseal.cli.log_folders import LogFolder, open_log_folders, unreadable
from hopseal.cli.options import log_option
from hopseal.cli.output import json_option, paint_state
from hopseal.cli.selecting import selecting_options, selection_of
from hopseal.log.entries import LogError, read_payload
from hopseal.log.selection import ChainNotes

POLL_S = 0.5


class Follower:
    """The lines that are appended to one log from now on, into its next file too."""

    def __init__(self, folder: LogFolder, stack: ExitStack) -> None:
        self.origin = folder.origin
        self._path = folder.files[-1]
        self._stack = stack
        self._file = self._open()
        self._file.seek(0, 2)

    def read(self) -> Iterator[bytes]:
        """The JSON texts of whole new lines; an unfinished line is left for the next time."""
        yield from self._lines()
        if self._is_renamed():
            # What was written between the last look and the renaming is still in the old file.
            yield from self._lines()
            self._file.close()
            self._file = self._open()
            yield from self._lines()

    def _lines(self) -> Iterator[bytes]:
        while True:
            before = self._file.tell()
            line = self._file.readline()
            if not line.endswith(b"\n"):
                self._file.seek(before)
                return
            try:
                yield read_payload(line[:-1])
            except LogError:
                continue

    def _is_renamed(self) -> bool:
        """Whether the file that grows is another one by now; a moment without any is none."""
        try:
            return not self._path.samefile(f"/proc/self/fd/{self._file.fileno()}")
        except OSError:
            return False

    def _open(self) -> BinaryIO:
        try:
            return self._stack.enter_context(self._path.open("rb"))
        except OSError as error:
            raise unreadable(self._path, error) from error


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
        followers = [Follower(folder, stack) for folder in open_log_folders(logs)]
        while left is None or left > 0:
            fresh = [(text, each.origin) for each in followers for text in each.read()]
            for text, _ in fresh:
                notes.add(records_in(text))
            found = (row_of(text, origin, selection, notes) for text, origin in fresh)
            rows = [row for row in found if row is not None]
            for row in rows[:left]:
                click.echo(json.dumps(row, ensure_ascii=False) if as_json else _describe(row))
            left = None if left is None else left - len(rows[:left])
            if not rows:
                time.sleep(POLL_S)


def _describe(row: dict[str, object]) -> str:
    parties = f"{short_id(str(row['caller']))} → {short_id(str(row['callee']))}"
    verdict = paint_state(str(row["verdict"]))
    why = f"  {row['code']}" if row["code"] else ""
    at = moment(int(str(row["at"])))
    text = f"{row['direction']}  {parties}  {row['operation'] or '?'}  chain {row['cid']} hop {row['hop']}"
    return f"{at}  {verdict} {clean(text)}  on {clean(str(row['log']).rpartition('/')[2])}{why}"
