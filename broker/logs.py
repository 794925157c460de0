"""The broker's log lines: JSON or console text on standard error, one event name per thing that happens.

Owns: their form; no text of a caller can start a line of its own or move a terminal's cursor.
Does not own: which events there are.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import structlog

from broker.config import LogConfig


def configure_logs(config: LogConfig) -> None:
    """Write log lines as ``config`` says, from now on."""
    renderer: structlog.types.Processor
    if config.format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            escape_controls,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[config.level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard module; their warnings belong on the same stream.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)r")


class CallLines:
    """The lines about calls: thousands a second, so JSON that is printable as it is stays as it is.

    Args:
        config: of the log.
    """

    def __init__(self, config: LogConfig) -> None:
        self._is_wanted = logging.getLevelNamesMapping()[config.level.upper()] <= logging.INFO
        self._is_json = config.format == "json"

    def end(self) -> str:
        """What a line that the data plane makes ends with, instead of its last brace."""
        now = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
        return f',"level":"info","timestamp":"{now}"}}'

    def write(self, lines: str, others: Sequence[str]) -> None:
        """Write ``lines``, made with :meth:`end`, and a line for each of ``others``, the data plane's JSON texts."""
        if not self._is_wanted:
            return
        if self._is_json:
            sys.stderr.write(lines)
        else:
            _write_events(map(json.loads, lines.splitlines()))
        _write_events(map(json.loads, others))


def _write_events(events: Iterable[dict[str, Any]]) -> None:
    log = structlog.get_logger("broker.data_plane")
    for event in events:
        fields = {key: value for key, value in event.items() if key not in {"event", "level", "timestamp"}}
        log.info(event["event"], **fields)


def escape_controls(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """``event`` with every character that is not printable written as its escape."""
    return {_escape(key): _escape_value(value) for key, value in event.items()}


def _escape_value(value: object) -> object:
    if isinstance(value, str):
        return _escape(value)
    if isinstance(value, dict):
        return {_escape(str(key)): _escape_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_escape_value(each) for each in value]
    return value


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
