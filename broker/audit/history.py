"""Cosigned checkpoints on disk, a file for each hour, thinned when the hour is over.

Owns: the files. Does not own: their text, and what thinning leaves (``hopseal.log.history``).
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from broker.audit.errors import LogStoreError
from broker.audit.tile_store import sync_folder, write_all, write_file
from hopseal.log.history import PastCheckpoint, format_past_checkpoint, parse_history, thin

KEPT_WHOLE_S = 3600
_HOUR_S = 3600
_NAME = re.compile(r"([0-9]{10})\.jsonl", re.ASCII)


class CheckpointHistory:
    """The history in ``folder``, which is made when it is first written to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hour = ""

    def append(self, past: PastCheckpoint) -> None:
        """Add one, durably.

        Raises:
            LogStoreError: it may not be there.
        """
        hour = _name_hour(past.time)
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(mode=0o750)
                sync_folder(self._folder.parent)
            path = self._folder / f"{hour}.jsonl"
            is_new = not path.exists()
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o640)
            try:
                write_all(descriptor, _line_end(descriptor) + format_past_checkpoint(past))
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                sync_folder(self._folder)
            if hour != self._hour:
                self._hour = hour
                self._thin(past.time)
        except OSError as error:
            raise LogStoreError(error) from error

    def _thin(self, now: int) -> None:
        """Leave one checkpoint for each half minute in the files that ended long enough ago."""
        newest = _name_hour(now - KEPT_WHOLE_S - _HOUR_S)
        for path in sorted(self._folder.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found is None or found[1] > newest:
                continue
            thinned = path.with_name(f"{found[1]}.thin.jsonl")
            kept = thin(parse_history(path.read_bytes()))
            write_file(thinned, b"".join(map(format_past_checkpoint, kept)))
            sync_folder(self._folder)
            path.unlink()


def _line_end(descriptor: int) -> bytes:
    """A newline if a crash left a torn line at the end."""
    size = os.fstat(descriptor).st_size
    return b"\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else b""


def _name_hour(time: int) -> str:
    return datetime.fromtimestamp(max(0, time), UTC).strftime("%Y%m%d%H")
