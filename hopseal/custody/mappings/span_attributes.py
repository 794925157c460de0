"""What a tracing span says of custody, so that a trace leads to the evidence.

Owns: the names ``custody.*`` and their values, as a plain dictionary for any OpenTelemetry API. Hashes and IDs only: no
identities of users, no operations, no tokens. Source: custody-wire §9.5.
"""

from __future__ import annotations

from hopseal.custody.receipt import Receipt
from hopseal.custody.record import SealedRecord
from hopseal.custody.sealed import Sealed

CHAIN = "custody.cid"
HOP = "custody.hop"
RECORD = "custody.record"
RECEIPT = "custody.receipt"
RECEIPT_FIN = "custody.receipt.fin"

Attributes = dict[str, str | int]


def record_attributes(sealed: SealedRecord) -> Attributes:
    """The attributes of a span around one call, from its record."""
    return {CHAIN: sealed.record.cid, HOP: sealed.record.hop, RECORD: sealed.hash}


def receipt_attributes(sealed: Sealed[Receipt]) -> Attributes:
    """What its verified receipt adds when the call has ended."""
    return {RECEIPT: sealed.hash, RECEIPT_FIN: sealed.claims.outcome.fin.value}
