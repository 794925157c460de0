"""Request binding: one hash over everything about a request that a later hop may rely on.

Owns: the base text, ``Content-Digest``, ``rqb``. Does not own: how ``@target-uri`` is derived from configuration.
Covered fields are covered if present, so both injecting and stripping one changes the hash.
Source: custody-wire §4.4; RFC 9421 §2.1, §2.2.1, §2.2.2 and §2.5; RFC 9530 §2.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

from hopseal.custody.encoding import encode_b64url, sha256
from hopseal.custody.errors import Code, CustodyError, refusal

Header = tuple[str, str]  # name, value; each character of either is one byte (ISO-8859-1)

CONTENT_DIGEST = "content-digest"
COVERED_FIELDS = (
    "content-type",
    "content-encoding",
    CONTENT_DIGEST,
    "authorization",
    "txn-token",
    "workload-identity-token",
    "idempotency-key",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "a2a-version",
    "a2a-extensions",
    "upgrade",
    "sec-websocket-protocol",
)
OWS = " \t"
_VALUE = re.compile(r"[\t -~]*", re.ASCII)


def content_digest(body: bytes) -> str:
    """The ``Content-Digest`` value for ``body``: one sha-256 member."""
    return f"sha-256=:{base64.b64encode(sha256(body)).decode('ascii')}:"


def binding_base(method: str, target_uri: str, headers: Sequence[Header]) -> str:
    """The text whose hash is ``rqb``.

    Raises:
        CustodyError: [binding] if a covered value holds a control character or a byte outside ASCII.
    """
    lines = [f'"@method": {method}', f'"@target-uri": {target_uri}']
    for name in COVERED_FIELDS:
        value = field_value(headers, name)
        if value is not None:
            if _VALUE.fullmatch(value) is None:
                raise _unbound(f"{name} holds a control character or a byte outside ASCII")
            lines.append(f'"{name}": {value}')
    return "\n".join(lines)


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
    return encode_b64url(sha256(binding_base(method, target_uri, headers).encode()))


def field_value(headers: Sequence[Header], name: str) -> str | None:
    """All lines of the field ``name`` (lower case), trimmed and joined with a comma; None if there is none."""
    values = [value.strip(OWS) for field, value in headers if field.lower() == name]
    return ", ".join(values) if values else None


def _unbound(detail: str) -> CustodyError:
    return refusal(Code.BINDING, detail)
