"""Decisions of the past, out of the broker's own log lines.

Owns: finding one by its id. Does not own: what the broker remembers itself (its admin socket answers that).
A line about a refused call, or about one that an observed set would have denied, holds the whole question.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hopseal.errors import UnavailableError


def find_decision(decision: str, logs: Iterable[Path]) -> dict[str, Any] | None:
    """The newest call with that decision in the log files; None if none has it.

    Raises:
        UnavailableError: a file cannot be read (``log_unreadable``).
    """
    found = None
    for path in logs:
        try:
            with path.open("r", encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if decision in line:
                        found = _read(line, decision) or found
        except OSError as error:
            raise UnavailableError(
                "log_unreadable", f"{path}: {error.strerror}", remedy="name the broker's log"
            ) from error
    return found


def _read(line: str, decision: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or event.get("decision") != decision:
        return None
    return {
        "decision": decision,
        "at": event.get("timestamp"),
        "allowed": event.get("code") == "ok",
        "policy": event.get("policy") or [],
        "detail": event.get("detail"),
        "would_deny": event.get("would_deny") or [],
        "question": event.get("question"),
        "now": None,
    }
