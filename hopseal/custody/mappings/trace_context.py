"""W3C Trace Context into the claim ``tid``.

Owns: the trace-id of a ``traceparent``. It is informative: intermediaries rewrite the field and nobody signs it, so it
never says which request caused which. Source: custody-wire §9.5; W3C Trace Context §3.2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hopseal.custody.binding import OWS, Header

TRACEPARENT = "traceparent"
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)
_FIRST_VERSION, _NO_VERSION = "00", "ff"


def trace_id_of(headers: Sequence[Header]) -> str | None:
    """The trace-id of a message, 32 hex digits; None if it has none, several, or one that is not valid."""
    values = [value.strip(OWS) for name, value in headers if name.lower() == TRACEPARENT]
    return parse_traceparent(values[0]) if len(values) == 1 else None


def parse_traceparent(value: str) -> str | None:
    """The trace-id in a ``traceparent``; None if it is not valid. Later versions may have more parts than the first."""
    match = _PARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, parent_id, more = match.groups()
    if version == _NO_VERSION or (version == _FIRST_VERSION and more is not None):
        return None
    return trace_id if trace_id.strip("0") and parent_id.strip("0") else None
