"""Custody header fields: names, sizes and splitting, on the raw header list.

Owns: steps 1 and 2 of the receiver, and what they have in common with those for responses; the list grammar of §4.1,
certificates in ``Custody-Certs``, stripping.
Does not own: what the values mean. A merged header dictionary hides duplicates, hence lists only.
Source: custody-wire §4.1, §5.2, §6.1, §6.2, §12; RFC 9440 §2.2 and §4.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hopseal.custody.binding import COVERED_FIELDS, OWS, Header
from hopseal.custody.encoding import decode_base64
from hopseal.custody.errors import Code, CustodyError, malformed, refusal
from hopseal.limits import (
    MAX_CERT_BYTES,
    MAX_CERTS,
    MAX_CERTS_BYTES,
    MAX_CHAIN_BYTES,
    MAX_CUSTODY_BYTES,
    MAX_RECORD_BYTES,
    MAX_RECORDS,
)

RECORD = "Custody-Record"
CHAIN = "Custody-Chain"
CERTS = "Custody-Certs"
RECEIPT = "Custody-Receipt"
CLOSE = "Custody-Close"
EARLY_DATA = "early-data"
_PREFIX = "custody-"
_STRIPPED = (_PREFIX, "x-forwarded-client-cert", "client-cert")
_QUANTUM = 4  # characters of base64 for three bytes


@dataclass(frozen=True, slots=True)
class CustodyFields:
    """The Custody fields of one request, within all bounds, not decoded.

    Args:
        record: sealed text of the newest record.
        chain: sealed texts of the ancestors, oldest first.
        certs: elements of ``Custody-Certs``.
    """

    record: str
    chain: tuple[str, ...]
    certs: tuple[str, ...]


def read_custody_fields(headers: Sequence[Header]) -> CustodyFields:
    """The Custody fields of a request: steps 1 and 2 of custody-wire §6, in order.

    Raises:
        CustodyError: [malformed], [duplicate], [missing], [early_data], [too_large], [too_long].
    """
    fields = collect_fields(headers)
    if RECORD.lower() not in fields:
        raise refusal(Code.MISSING)
    if any(name.lower() == EARLY_DATA and value.strip(OWS) == "1" for name, value in headers):
        raise refusal(Code.EARLY_DATA)
    chain, certs = split_elements(fields, CHAIN), split_elements(fields, CERTS)
    check_sizes(fields, {RECORD: MAX_RECORD_BYTES, CHAIN: MAX_CHAIN_BYTES, CERTS: MAX_CERTS_BYTES}, certs)
    if any(len(element) > MAX_RECORD_BYTES for element in chain):
        raise _too_large("an ancestor")
    if len(chain) + 1 > MAX_RECORDS:
        raise refusal(Code.TOO_LONG)
    return CustodyFields(fields[RECORD.lower()].strip(OWS), chain, certs)


def collect_fields(headers: Sequence[Header]) -> dict[str, str]:
    """Every Custody field line of a message by its lower-case name; each may be there once.

    Raises:
        CustodyError: [malformed], [duplicate].
    """
    custody = [(name.lower(), value) for name, value in headers if name.lower().replace("_", "-").startswith(_PREFIX)]
    if any("_" in name for name, _ in custody):
        raise malformed("a field name turns into a Custody field when underscores are folded")
    fields = dict(custody)
    if len(fields) != len(custody):
        raise refusal(Code.DUPLICATE)
    return fields


def split_elements(fields: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The elements of the list field ``name``, trimmed; none if it is absent."""
    value = fields.get(name.lower())
    return () if value is None else tuple(element.strip(OWS) for element in value.split(","))


def check_sizes(fields: Mapping[str, str], bounds: Mapping[str, int], certs: Sequence[str]) -> None:
    """Return if all fields together, each of ``bounds`` and the certificates are within their bounds, not decoded.

    Raises:
        CustodyError: [too_large].
    """
    if sum(len(name) + len(value) for name, value in fields.items()) > MAX_CUSTODY_BYTES:
        raise _too_large("all Custody fields")
    for name, bound in bounds.items():
        if len(fields.get(name.lower(), "")) > bound:
            raise _too_large(name)
    if len(certs) > MAX_CERTS or any(_decoded_size(element) > MAX_CERT_BYTES for element in certs):
        raise _too_large("certificates")


def parse_certificate_element(element: str) -> bytes:
    """The DER bytes of one element of ``Custody-Certs``.

    Raises:
        CustodyError: [malformed] unless it is ``:`` base64 ``:``.
    """
    if len(element) < 2 or not element.startswith(":") or not element.endswith(":"):
        raise malformed("a certificate is not a byte sequence")
    der = decode_base64(element[1:-1])
    if not der:
        raise malformed("a certificate is empty")
    return der


def strip_custody(headers: Iterable[Header]) -> list[Header]:
    """``headers`` without anything a peer or component could use to speak for somebody else.

    A covered field's name but for underscores goes too: whoever takes both for one field would take what nothing binds.
    """
    return [(name, value) for name, value in headers if not _is_stripped(name.lower())]


def _is_stripped(name: str) -> bool:
    folded = name.replace("_", "-")
    return folded.startswith(_STRIPPED) or (folded != name and folded in COVERED_FIELDS)


def format_custody_fields(record: str, chain: Sequence[str], certs: Sequence[bytes]) -> list[Header]:
    """The header lines that carry ``record``, its ancestors (oldest first) and certificates (DER).

    Raises:
        CustodyError: [too_large] or [too_long], as the receiver would say.
    """
    headers = [(RECORD, record)]
    if chain:
        headers.append((CHAIN, ", ".join(chain)))
    headers += format_certificates(certs)
    read_custody_fields(headers)
    return headers


def format_certificates(certs: Sequence[bytes]) -> list[Header]:
    """The header line with these certificates (DER); none if there are none."""
    value = ", ".join(f":{base64.b64encode(der).decode('ascii')}:" for der in certs)
    return [(CERTS, value)] if value else []


def _decoded_size(element: str) -> int:
    text = element.strip(":")
    return len(text) // _QUANTUM * 3 - (len(text) - len(text.rstrip("=")))


def _too_large(what: str) -> CustodyError:
    return refusal(Code.TOO_LARGE, what)
