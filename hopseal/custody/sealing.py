"""Sealing statements of any type: which may share a seal, and when a key may still be used.

Owns: batches. Does not own: the seal's form (``seal``), the log, which must hold a statement before it is sent, and
the clock and keys, which arrive as arguments.
Source: custody-wire §4.2 and §17.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from hopseal.custody.closing import Closing
from hopseal.custody.evidence_statement import EvidenceStatement
from hopseal.custody.record import Record
from hopseal.custody.seal import Signer, seal_statements
from hopseal.custody.segment import Segment
from hopseal.custody.statement import Statement, encode_statement
from hopseal.errors import UnavailableError
from hopseal.limits import MAX_STATEMENTS_SEALED, SIGNING_MARGIN_S, SIGNING_MARGIN_SHARE
from hopseal.verify import parse_certificate


def seal_each(statements: Sequence[Statement], signer: Signer, now: int) -> tuple[str, ...]:
    """The sealed text of each of ``statements``, in their order; all must be of the signer's SVID.

    One seal covers at most 32 of them and never receivers of different trust domains: neighbours would learn of each
    other's load and statement hashes.

    Raises:
        UnavailableError: ``svid_expired``, the leaf is too close to its end (or not begun) at ``now``.
    """
    check_signing_time(signer.leaf_der, now)
    groups: dict[str, list[int]] = {}
    for position, statement in enumerate(statements):
        groups.setdefault(_receiver_domain(statement), []).append(position)
    texts: dict[int, str] = {}
    for group in groups.values():
        for start in range(0, len(group), MAX_STATEMENTS_SEALED):
            batch = group[start : start + MAX_STATEMENTS_SEALED]
            sealed = seal_statements([encode_statement(statements[position]) for position in batch], signer)
            texts.update(zip(batch, sealed, strict=True))
    return tuple(texts[position] for position in range(len(statements)))


def check_signing_time(leaf_der: bytes, now: int) -> None:
    """Return if the leaf lasts for more than min(30 s, a sixth of its lifetime) from ``now``.

    Raises:
        UnavailableError: ``svid_expired``.
    Source: custody-wire §17.
    """
    leaf = parse_certificate(leaf_der)
    lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    margin = min(dt.timedelta(seconds=SIGNING_MARGIN_S), lifetime / SIGNING_MARGIN_SHARE)
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    if not leaf.not_valid_before_utc <= moment <= leaf.not_valid_after_utc - margin:
        raise UnavailableError("svid_expired", "the SVID is about to expire", detail=f"now {moment}")


def _receiver_domain(statement: Statement) -> str:
    """The trust domain that will see it, or the whole origin; evidence stays where it was made."""
    match statement:
        case Record():
            return statement.aud.split("/", 3)[2] if statement.aud.startswith("spiffe://") else statement.aud
        case Closing() | Segment():
            return statement.aud.trust_domain.name
        case EvidenceStatement():
            return statement.iss.trust_domain.name
        case _:
            return statement.outcome.aud.trust_domain.name
