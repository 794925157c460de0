"""Bindings: one hash over everything about a request, or a response, that others may rely on.

Owns: the base texts, ``Content-Digest``, ``rqb``, ``rsb``, and what a body came to.
Does not own: how ``@target-uri`` is derived from configuration.
Covered fields are covered if present, so both injecting and stripping one changes the hash.
Source: custody-wire §4.4 and §7.1; RFC 9421 §2.1, §2.2.1, §2.2.2, §2.2.9 and §2.5; RFC 9530 §2.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hopseal.custody.encoding import encode_b64url, sha256
from hopseal.custody.errors import Code, CustodyError, refusal
from hopseal.custody.messages import MessageCounter

Header = tuple[str, str]  # name, value; each character of either is one byte (ISO-8859-1)

CONTENT_DIGEST = "content-digest"
_CONTENT_FIELDS = ("content-type", "content-encoding", CONTENT_DIGEST)
_WEBSOCKET_FIELDS = ("upgrade", "sec-websocket-protocol", "sec-websocket-extensions")
COVERED_IN_RESPONSES = (
    *_CONTENT_FIELDS,
    *_WEBSOCKET_FIELDS,
    "grpc-encoding",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
)
COVERED_FIELDS = (
    *_CONTENT_FIELDS,
    "authorization",
    "txn-token",
    "workload-identity-token",
    "idempotency-key",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "a2a-version",
    "a2a-extensions",
    *_WEBSOCKET_FIELDS,
    "grpc-encoding",
)
OWS = " \t"
_CUSTODY = "custody-"
_VALUE = re.compile(r"[\t -~]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class BodySum:
    """What a body came to on the wire.

    Args:
        length: its bytes.
        cd: their SHA-256, base64url.
        messages: how many, if the body is a sequence of them.
        trailers: binding of what followed it, see :func:`bind_trailers`.
    """

    length: int
    cd: str
    messages: int | None = None
    trailers: str | None = None

    @classmethod
    def of(cls, body: bytes) -> BodySum:
        """The sum of a whole body; see :class:`RollingSum` for one that comes in parts."""
        return cls(len(body), encode_b64url(sha256(body)))


class RollingSum:
    """The sum of a body that comes in parts.

    Args:
        messages: counts them, if the body is a sequence of messages (``messages``).
    """

    def __init__(self, messages: MessageCounter | None = None) -> None:
        self._hash = hashlib.sha256()
        self._length = 0
        self._messages = messages

    def update(self, part: bytes) -> None:
        """Add the next bytes.

        Raises:
            CustodyError: [malformed] if they are no messages.
        """
        self._hash.update(part)
        self._length += len(part)
        if self._messages is not None:
            self._messages.update(part)

    def sum(self) -> BodySum:
        """The sum of what came so far."""
        count = None if self._messages is None else self._messages.count
        return BodySum(self._length, encode_b64url(self._hash.digest()), count)


def content_digest(body: bytes) -> str:
    """The ``Content-Digest`` value for ``body``: one sha-256 member."""
    return f"sha-256=:{base64.b64encode(sha256(body)).decode('ascii')}:"


def binding_base(method: str, target_uri: str, headers: Sequence[Header]) -> str:
    """The text whose hash is ``rqb``.

    Raises:
        CustodyError: [binding] if a covered value holds a control character or a byte outside ASCII.
    """
    start = [f'"@method": {method}', f'"@target-uri": {target_uri}']
    return "\n".join(start + _covered_lines(headers, COVERED_FIELDS))


def response_base(status: int, headers: Sequence[Header]) -> str:
    """The text whose hash is ``rsb``.

    Raises:
        CustodyError: [binding] if a covered value holds a control character or a byte outside ASCII.
    """
    return "\n".join([f'"@status": {status}', *_covered_lines(headers, COVERED_IN_RESPONSES)])


def bind_request(method: str, target_uri: str, headers: Sequence[Header], body: bytes) -> str:
    """``rqb`` of a request whose ``Content-Digest`` fits ``body``.

    Args:
        method: as on the wire.
        target_uri: absolute URI with query.
        headers: raw list, in wire order.
        body: bytes on the wire, after content coding.

    Raises:
        CustodyError: [binding] if the digest is absent with a body, present without one, or wrong.
    """
    digest = field_value(headers, CONTENT_DIGEST)
    if digest != (content_digest(body) if body else None):
        raise _unbound("Content-Digest and body do not fit")
    return _hash(binding_base(method, target_uri, headers))


def bind_stream(method: str, target_uri: str, headers: Sequence[Header]) -> str:
    """``rqb`` of a request whose body follows and is bound by the closing statement at its end.

    Raises:
        CustodyError: [binding] if there is a ``Content-Digest``: of a body that is not known yet.
    """
    if field_value(headers, CONTENT_DIGEST) is not None:
        raise _unbound("a streamed body has a Content-Digest")
    return _hash(binding_base(method, target_uri, headers))


def bind_response(status: int, headers: Sequence[Header]) -> str:
    """``rsb`` of a response with this status and raw header list; its body is bound by ``cd``.

    Raises:
        CustodyError: [binding] if a covered value holds a control character or a byte outside ASCII.
    """
    return _hash(response_base(status, headers))


def bind_trailers(trailers: Sequence[Header]) -> str | None:
    """``tlb`` of these trailers but for those of custody; None if there are no others.

    Raises:
        CustodyError: [binding] if a value holds a control character or a byte outside ASCII.
    """
    names = sorted({name.lower() for name, _ in trailers if not name.lower().startswith(_CUSTODY)})
    return _hash("\n".join(_covered_lines(trailers, names))) if names else None


def field_value(headers: Sequence[Header], name: str) -> str | None:
    """All lines of the field ``name`` (lower case), trimmed and joined with a comma; None if there is none."""
    values = [value.strip(OWS) for field, value in headers if field.lower() == name]
    return ", ".join(values) if values else None


def _covered_lines(headers: Sequence[Header], names: Sequence[str]) -> list[str]:
    lines = []
    for name in names:
        value = field_value(headers, name)
        if value is not None:
            if _VALUE.fullmatch(value) is None:
                raise _unbound(f"{name} holds a control character or a byte outside ASCII")
            lines.append(f'"{name}": {value}')
    return lines


def _hash(base: str) -> str:
    return encode_b64url(sha256(base.encode()))


def _unbound(detail: str) -> CustodyError:
    return refusal(Code.BINDING, detail)
