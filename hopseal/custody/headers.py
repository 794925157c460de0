"""Custody header fields: names, sizes and splitting, on the raw header list.

Owns: steps 1 and 2 of the receiver, the list grammar of §4.1, certificates in ``Custody-Certs``, stripping.
Does not own: what the values mean. A merged header dictionary hides duplicates, hence lists only.
Source: custody-wire §4.1, §5.2, §6.1, §6.2, §12; RFC 9440 §2.2 and §4.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hopseal.custody.binding import OWS, Header
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
HANDLE = "Custody-Handle"
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
    fields = _single_fields(headers)
    chain, certs = _elements(fields.get(CHAIN.lower())), _elements(fields.get(CERTS.lower()))
    _check_sizes(fields, chain, certs)
    return CustodyFields(fields[RECORD.lower()].strip(OWS), chain, certs)


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
    """``headers`` without anything a peer or component could use to speak for somebody else."""
    return [(name, value) for name, value in headers if not name.lower().replace("_", "-").startswith(_STRIPPED)]


def format_custody_fields(record: str, chain: Sequence[str], certs: Sequence[bytes]) -> list[Header]:
    """The header lines that carry ``record``, its ancestors (oldest first) and certificates (DER).

    Raises:
        CustodyError: [too_large] or [too_long], as the receiver would say.
    """
    headers = [(RECORD, record)]
    if chain:
        headers.append((CHAIN, ", ".join(chain)))
    if certs:
        headers.append((CERTS, ", ".join(f":{base64.b64encode(der).decode('ascii')}:" for der in certs)))
    read_custody_fields(headers)
    return headers


def _single_fields(headers: Sequence[Header]) -> dict[str, str]:
    """Step 1: names, duplicates, presence, early data."""
    custody = [(name.lower(), value) for name, value in headers if name.lower().replace("_", "-").startswith(_PREFIX)]
    if any("_" in name for name, _ in custody):
        raise malformed("a field name turns into a Custody field when underscores are folded")
    fields = dict(custody)
    if len(fields) != len(custody):
        raise refusal(Code.DUPLICATE)
    if RECORD.lower() not in fields:
        raise refusal(Code.MISSING)
    if any(name.lower() == EARLY_DATA and value.strip(OWS) == "1" for name, value in headers):
        raise refusal(Code.EARLY_DATA)
    return fields


def _elements(value: str | None) -> tuple[str, ...]:
    return () if value is None else tuple(element.strip(OWS) for element in value.split(","))


def _check_sizes(fields: dict[str, str], chain: tuple[str, ...], certs: tuple[str, ...]) -> None:
    """Step 2: every bound, before anything is decoded."""
    bounds = ((RECORD, MAX_RECORD_BYTES), (CHAIN, MAX_CHAIN_BYTES), (CERTS, MAX_CERTS_BYTES))
    if sum(len(name) + len(value) for name, value in fields.items()) > MAX_CUSTODY_BYTES:
        raise _too_large("all Custody fields")
    for name, bound in bounds:
        if len(fields.get(name.lower(), "")) > bound:
            raise _too_large(name)
    if len(certs) > MAX_CERTS or any(_decoded_size(element) > MAX_CERT_BYTES for element in certs):
        raise _too_large("certificates")
    if any(len(element) > MAX_RECORD_BYTES for element in chain):
        raise _too_large("an ancestor")
    if len(chain) + 1 > MAX_RECORDS:
        raise refusal(Code.TOO_LONG)


def _decoded_size(element: str) -> int:
    text = element.strip(":")
    return len(text) // _QUANTUM * 3 - (len(text) - len(text.rstrip("=")))


def _too_large(what: str) -> CustodyError:
    return refusal(Code.TOO_LARGE, what)
