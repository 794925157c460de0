"""The broker's log lines: JSON or console text on standard error, one event name per thing that happens.

Owns: their form; no text of a caller can start a line of its own or move a terminal's cursor.
Does not own: which events there are.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import Callable, MutableMapping, Sequence
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


def call_writer(config: LogConfig) -> Callable[[Sequence[str]], None]:
    """What writes the lines about calls: thousands a second, so JSON that is printable as it is stays as it is."""
    if logging.getLevelNamesMapping()[config.level.upper()] > logging.INFO:
        return lambda _texts: None
    return _write_json_calls if config.format == "json" else _write_calls


def _write_calls(texts: Sequence[str]) -> None:
    log = structlog.get_logger("broker.data_plane")
    for text in texts:
        event = json.loads(text)
        log.info(event.pop("event"), **event)


def _write_json_calls(texts: Sequence[str]) -> None:
    now = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
    end = f',"level":"info","timestamp":"{now}"}}\n'
    sys.stderr.write("".join(text[:-1] + end for text in texts if _is_plain(text)))
    _write_calls([text for text in texts if not _is_plain(text)])


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


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
