"""The witness's own log lines: one JSON object each on standard error.

Owns: their form; no text of a client can start a line of its own. Does not own: which events there are.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import Callable

Events = Callable[..., None]
"""``events(name, **fields)`` writes one line."""


def write_event(event: str, /, **fields: object) -> None:
    """Write one event now."""
    at = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    sys.stderr.write(json.dumps({"event": event, "timestamp": at, **fields}) + "\n")
    sys.stderr.flush()


class LibraryEvents(logging.Handler):
    """What libraries log through the standard module, as events on the same stream."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as one event."""
        failure = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        write_event("library", level=record.levelname, logger=record.name, message=record.getMessage(), failure=failure)
