"""Statements of any type: one reader and one writer over the six.

Owns: the dispatch by ``t``. A place that admits one type names it, or uses that type's own parser; only logs and
auditors read them all. Source: custody-wire §4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import MappingProxyType

from hopseal.custody import closing, evidence_statement, observation, receipt, record, segment
from hopseal.custody.claims import read_claims
from hopseal.custody.closing import Closing, encode_closing
from hopseal.custody.evidence_statement import EvidenceStatement, encode_evidence
from hopseal.custody.members import Members
from hopseal.custody.observation import Observation, encode_observation
from hopseal.custody.receipt import Receipt, encode_receipt
from hopseal.custody.record import Record, encode_record
from hopseal.custody.seal import parse_sealed
from hopseal.custody.sealed import Sealed
from hopseal.custody.segment import Segment, encode_segment

Statement = Record | Receipt | Observation | Closing | EvidenceStatement | Segment

_READERS: MappingProxyType[str, Callable[[Members], Statement]] = MappingProxyType(
    {
        record.TYPE: record.read_record,
        receipt.TYPE: receipt.read_receipt,
        observation.TYPE: observation.read_observation,
        closing.TYPE: closing.read_closing,
        evidence_statement.TYPE: evidence_statement.read_evidence,
        segment.TYPE: segment.read_segment,
    }
)
TYPES = tuple(_READERS)


def parse_statement(payload: bytes, types: Collection[str] = TYPES) -> Statement:
    """The statement whose claims are the JSON text ``payload``.

    Args:
        payload: the JSON text.
        types: the values of ``t`` that may stand where it was found.

    Raises:
        CustodyError: [malformed], for a type outside ``types`` too.
    """
    kind, claims = read_claims(payload, *types)
    return _READERS[kind](claims)


def parse_sealed_statement(text: str, types: Collection[str] = TYPES) -> Sealed[Statement]:
    """The statement in a sealed text; see :func:`parse_statement`.

    Raises:
        CustodyError: [malformed].
    """
    statement = parse_sealed(text)
    return Sealed(statement, parse_statement(statement.claims, types))


def encode_statement(statement: Statement) -> bytes:
    """The claims as JSON, in the order of the section that lists them."""
    match statement:
        case Record():
            return encode_record(statement)
        case Receipt():
            return encode_receipt(statement)
        case Observation():
            return encode_observation(statement)
        case Closing():
            return encode_closing(statement)
        case Segment():
            return encode_segment(statement)
        case _:
            return encode_evidence(statement)


def type_of(statement: Statement) -> str:
    """Its ``t``."""
    match statement:
        case Record():
            return record.TYPE
        case Receipt():
            return receipt.TYPE
        case Observation():
            return observation.TYPE
        case Closing():
            return closing.TYPE
        case Segment():
            return segment.TYPE
        case _:
            return evidence_statement.TYPE
