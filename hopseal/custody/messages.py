"""Bodies that are sequences of gRPC messages, each behind five bytes.

Owns: counting them. Does not own: frames of WebSockets (``frames``), the messages' content, digests of bodies
(``binding``). Source: custody-wire §7.3.
"""

from __future__ import annotations

import re

from hopseal.custody.errors import malformed

_GRPC = re.compile(r"application/grpc(?:[+; \t].*)?", re.ASCII | re.IGNORECASE)
_PREFIX_BYTES = 5


def is_grpc(content_types: list[str]) -> bool:
    """Whether a message with these lines of ``Content-Type`` has a body of gRPC messages."""
    return len(content_types) == 1 and _GRPC.fullmatch(content_types[0].strip(" \t")) is not None


class MessageCounter:
    """Counts the messages of a gRPC body that comes in parts."""

    def __init__(self) -> None:
        self.count = 0
        self._prefix = bytearray()
        self._left = 0

    def update(self, part: bytes) -> None:
        """Take the next bytes.

        Raises:
            CustodyError: [malformed] at a first byte of a message that is no flag.
        """
        rest = memoryview(part)
        while rest:
            if len(self._prefix) < _PREFIX_BYTES:
                self._prefix.append(rest[0])
                rest = rest[1:]
                if self._prefix[0] > 1:
                    raise malformed("a message with a flag that gRPC has not")
                self._left = int.from_bytes(self._prefix[1:])
            else:
                taken = min(len(rest), self._left)
                rest = rest[taken:]
                self._left -= taken
            if len(self._prefix) == _PREFIX_BYTES and self._left == 0:
                self.count += 1
                self._prefix.clear()
