"""The head of one proxy request, made ready for the broker. Pure.

Owns: what a bridge changes: fields that concern the connection go, the handle of the run's task comes. Does not own:
judging the request, which the broker does with the bytes as they are; a head that is not plainly one is refused here,
so that both read the same.
Source: RFC 9112 §2, §3.2.2, §3.2.3; RFC 9110 §7.6.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hopseal.errors import InvalidError
from hopseal.sdk.handle import HANDLE_HEADER

MAX_HEAD_BYTES = 32 << 10  # what component sockets of the broker take
END_OF_HEAD = b"\r\n\r\n"

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~]+) HTTP/1\.[01]")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t -~\x80-\xff]*")
_HOP_BY_HOP = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"proxy-authorization"})


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request to a proxy.

    Args:
        method: as received.
        target: in absolute form, or ``host:port`` of a ``CONNECT``.
        fields: the lines that go on to the broker.
        upgrades: the request asks for another protocol on its connection.
        handle: it belongs to a task of the program's own choice.
    """

    method: str
    target: str
    fields: tuple[bytes, ...]
    upgrades: bool
    handle: bool


def parse_head(data: bytes) -> Head:
    """The head in ``data``, which ends with the empty line.

    Raises:
        InvalidError: it is no head (code ``request_invalid``), or not one for a proxy (``not_a_proxy_request``).
    """
    line, *fields = data.removesuffix(END_OF_HEAD).split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None or not all(map(_FIELD.fullmatch, fields)):
        raise InvalidError("request_invalid", "this is no HTTP/1.1 request")
    method, target = match[1].decode(), match[2].decode()
    if method != "CONNECT" and not target.lower().startswith(("http://", "https://")):
        raise InvalidError(
            "not_a_proxy_request", "this is a proxy: ask it for http://COMPONENT.AGENT/path, not for a path"
        )
    names = [field.partition(b":")[0].lower() for field in fields]
    connection = b",".join(
        field.partition(b":")[2] for name, field in zip(names, fields, strict=True) if name == b"connection"
    )
    upgrades = b"upgrade" in names and b"upgrade" in [each.strip().lower() for each in connection.split(b",")]
    kept = tuple(field for name, field in zip(names, fields, strict=True) if name not in _HOP_BY_HOP)
    return Head(method, target, kept, upgrades, HANDLE_HEADER.encode() in names)


def format_head(head: Head, handle: str | None) -> bytes:
    """The head for the broker: one request on a connection of its own, as part of the task of ``handle``."""
    lines = [f"{head.method} {head.target} HTTP/1.1".encode(), *head.fields]
    lines.append(b"Connection: upgrade" if head.upgrades else b"Connection: close")
    if handle is not None and not head.handle:
        lines.append(f"Custody-Handle: {handle}".encode("latin-1"))
    return b"\r\n".join(lines) + END_OF_HEAD
