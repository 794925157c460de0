"""Setting up the log: one event name per thing that happens, as JSON lines or for a console.

Owns: form and level. Does not own: what is logged. Never pass an environment, a command line, a key
or a token to a logger; nothing here could recognise one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from attestor.config import LogSettings


def set_up_logs(settings: LogSettings) -> None:
    """Log to standard error as ``settings`` say, the libraries' own records included."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if settings.format == "console"
        else structlog.processors.JSONRenderer(default=str)
    )
    level = getattr(logging, settings.level.upper())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _name_foreign],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # It logs every request at INFO; what is asked on the admin socket is counted, not logged.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _name_foreign(
    _logger: logging.Logger | None, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Give a library's record an event name of its own and keep its sentence as detail."""
    record: logging.LogRecord = event["_record"]
    event["detail"] = event["event"]
    event["event"] = "library"
    event["logger"] = record.name
    return event
