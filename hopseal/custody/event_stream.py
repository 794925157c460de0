"""The final comment of an event stream, which carries its receipt.

Owns: writing it, and taking it off a stream, whole or as it comes in parts. Only the very end counts: a comment like it
that anything follows is body. Does not own: what is in the receipt.
Source: custody-wire §7.3 (SSE response).
"""

from __future__ import annotations

import re

from hopseal.limits import MAX_RECORD_BYTES

_COMMENT = b": custody-receipt "
_END = b"\n\n"
_SEALED = re.compile(rb"[A-Za-z0-9._-]{1,%d}" % MAX_RECORD_BYTES)


class EventStreamScanner:
    """Takes the final comment off a stream that comes in parts; an event passes on at once.

    It holds back at most one line that may still turn out to be that comment.
    """

    def __init__(self) -> None:
        self._held = b""
        self._at_line_start = True

    def push(self, part: bytes) -> bytes:
        """The bytes that are body for certain, now that ``part`` has come."""
        received = self._held + part
        start = _candidate(received, at_line_start=self._at_line_start)
        self._held = received[start:]
        if start:
            self._at_line_start = received[start - 1 : start] == b"\n"
        return received[:start]

    def finish(self) -> tuple[bytes, str | None]:
        """At the end of the stream: what of its body was held back, and the sealed text in its final comment."""
        sealed = self._held[len(_COMMENT) : -len(_END)]
        if not self._held.endswith(_END) or _SEALED.fullmatch(sealed) is None:
            return self._held, None
        return b"", sealed.decode("ascii")


def split_event_stream(body: bytes) -> tuple[bytes, str | None]:
    """The bytes of a whole event stream before its final comment, and the sealed text in that, if there is one."""
    scanner = EventStreamScanner()
    certain = scanner.push(body)
    rest, sealed = scanner.finish()
    return certain + rest, sealed


def format_event_comment(receipt: str) -> bytes:
    """The final comment of an event stream, to follow a line feed or nothing."""
    return _COMMENT + receipt.encode("ascii") + _END


def _candidate(received: bytes, *, at_line_start: bool) -> int:
    """Where the last line begins if it may be, or become, the final comment; else the end of what was received."""
    for feeds in range(len(_END), -1, -1):
        line_end = len(received) - feeds
        if line_end < 0 or received[line_end:] != _END[:feeds]:
            continue
        start = received.rfind(b"\n", 0, line_end) + 1
        if (start or at_line_start) and _may_be_comment(received[start:line_end], ended=feeds > 0):
            return start
    return len(received)


def _may_be_comment(line: bytes, *, ended: bool) -> bool:
    if not line.startswith(_COMMENT) or line == _COMMENT:
        return not ended and bool(line) and _COMMENT.startswith(line)
    return _SEALED.fullmatch(line, len(_COMMENT)) is not None
