"""The client certificate that a TLS-terminating proxy saw, from ``X-Forwarded-Client-Cert`` or ``Client-Cert``.

Owns: reading the two forms, and only from proxies that are configured to have removed what clients sent. Anybody can
write these fields: from everybody else they count as absent. Does not own: how the proxy itself is recognised.
Source: custody-wire §9.7; RFC 9440 §2 and §4; Envoy, "x-forwarded-client-cert".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hopseal.custody.binding import OWS, Header
from hopseal.custody.encoding import encode_b64url
from hopseal.custody.errors import Code, malformed, refusal
from hopseal.custody.headers import check_sizes, parse_certificate_element, split_elements
from hopseal.custody.seal import thumbprint
from hopseal.limits import MAX_CERTS_BYTES, MAX_FORWARDED_BYTES

_CHAIN = "client-cert-chain"
_KEY_VALUE = r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^",;=]*)'
_PAIR = re.compile(_KEY_VALUE, re.ASCII)
_ELEMENT = re.compile(f"{_KEY_VALUE}(?:;{_KEY_VALUE})*", re.ASCII)
_ELEMENTS = re.compile(f"{_KEY_VALUE}(?:[;,]{_KEY_VALUE})*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Form(StrEnum):
    """The field that a proxy writes, lower case."""

    XFCC = "x-forwarded-client-cert"
    CLIENT_CERT = "client-cert"


Proxies = Mapping[str, Form]  # by what the listener calls the sender: its SPIFFE ID, or its address


@dataclass(frozen=True, slots=True)
class ForwardedPeer:
    """The client as its proxy saw it.

    Args:
        x5t: thumbprint of its leaf, as in ``x5t#S256``.
        chain: DER certificates, leaf first; empty where the proxy gives a hash only.
    """

    x5t: str
    chain: tuple[bytes, ...] = ()


def read_forwarded_peer(headers: Sequence[Header], sender: str, proxies: Proxies) -> ForwardedPeer | None:
    """The client behind ``sender``; None if that is no configured proxy, or the proxy saw no certificate.

    Args:
        headers: raw list in wire order.
        sender: who opened the connection, as the listener established it.
        proxies: the form that each configured proxy writes.

    Raises:
        CustodyError: [duplicate] for several lines, [too_large], [malformed], [identity] if the proxy passes on what
            other proxies, or the client, wrote.
    """
    form = proxies.get(sender)
    if form is None:
        return None
    wanted = [(name.lower(), value) for name, value in headers if name.lower() in {form, _CHAIN}]
    fields = dict(wanted)
    if len(fields) != len(wanted):
        raise refusal(Code.DUPLICATE, "a forwarded certificate field occurs twice")
    if form not in fields:
        return None
    return _read_client_cert(fields) if form is Form.CLIENT_CERT else _read_xfcc(fields[form].strip(OWS))


def _read_client_cert(fields: dict[str, str]) -> ForwardedPeer:
    certs = (fields[Form.CLIENT_CERT].strip(OWS), *split_elements(fields, _CHAIN))
    check_sizes(fields, {Form.CLIENT_CERT: MAX_CERTS_BYTES, _CHAIN: MAX_CERTS_BYTES}, certs)
    chain = tuple(parse_certificate_element(each) for each in certs)
    return ForwardedPeer(thumbprint(chain[0]), chain)


def _read_xfcc(value: str) -> ForwardedPeer:
    if len(value) > MAX_FORWARDED_BYTES:
        raise refusal(Code.TOO_LARGE, Form.XFCC)
    if _ELEMENTS.fullmatch(value) is None:
        raise malformed("x-forwarded-client-cert is no list of key=value")
    if _ELEMENT.fullmatch(value) is None:
        raise refusal(Code.IDENTITY, "the proxy adds to x-forwarded-client-cert instead of replacing it")
    hashes = [match[2].strip('"') for match in _PAIR.finditer(value) if match[1].lower() == "hash"]
    if len(hashes) != 1 or _SHA256.fullmatch(hashes[0]) is None:
        raise malformed("x-forwarded-client-cert has not one SHA-256 of the certificate")
    return ForwardedPeer(encode_b64url(bytes.fromhex(hashes[0])))
