"""Sealed statements as the auditor reads them: any type, with where they are said to be logged.

Owns: pairing a sealed text with its claims. Does not own: whether any of it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.custody.closing import Closing
from hopseal.custody.evidence_statement import EvidenceStatement
from hopseal.custody.observation import Observation
from hopseal.custody.outcome import Outcome
from hopseal.custody.receipt import Receipt
from hopseal.custody.record import Record
from hopseal.custody.seal import SealedStatement
from hopseal.custody.segment import Segment
from hopseal.custody.statement import Statement, parse_sealed_statement, type_of
from hopseal.ids import SpiffeId
from hopseal.log.bundle import LoggedStatement, Seen


@dataclass(frozen=True, slots=True)
class ReadStatement:
    """One sealed text.

    Args:
        sealed: its parts.
        claims: its claims.
        body: where issuer, time and ID stand: the claims themselves, or the outcome in them.
        seen: where logs are said to hold it.
        leaf: text of its log entry, if that is not the entry of a statement.
    """

    sealed: SealedStatement
    claims: Statement
    body: Record | Outcome | Closing | EvidenceStatement | Segment
    seen: tuple[Seen, ...]
    leaf: bytes | None = None

    @property
    def hash(self) -> str:
        """The statement hash."""
        return self.sealed.hash

    @property
    def kind(self) -> str:
        """``t``."""
        return type_of(self.claims)

    @property
    def iss(self) -> SpiffeId:
        """Who made it."""
        return self.body.iss

    @property
    def iat(self) -> int:
        """When it says that it was made, NumericDate seconds."""
        return self.body.iat

    @property
    def jti(self) -> str:
        """Its ID, unique for its issuer."""
        return self.body.jti

    @property
    def cid(self) -> str | None:
        """The chain that it belongs to; None if it is about no chain."""
        return None if isinstance(self.body, EvidenceStatement) else self.body.cid

    @property
    def subject(self) -> str | None:
        """The hash of the record that it is about."""
        return self.body.rec if isinstance(self.body, Outcome | Closing | Segment) else None

    @property
    def outcome(self) -> Outcome | None:
        """How a call ended, if it is a receipt or an observation."""
        return self.body if isinstance(self.body, Outcome) else None

    @property
    def receipt(self) -> Outcome | None:
        """The same, only if it is a receipt."""
        return self.claims.outcome if isinstance(self.claims, Receipt) else None

    @property
    def record(self) -> Record | None:
        """The claims, if it is a record."""
        return self.claims if isinstance(self.claims, Record) else None

    @property
    def evidence(self) -> EvidenceStatement | None:
        """The claims, if it is an evidence statement."""
        return self.claims if isinstance(self.claims, EvidenceStatement) else None


def read_statement(logged: LoggedStatement, leaf: bytes | None = None) -> ReadStatement:
    """The statement in a sealed text.

    Raises:
        CustodyError: [malformed].
    """
    sealed = parse_sealed_statement(logged.sealed)
    claims = sealed.claims
    body = claims.outcome if isinstance(claims, Receipt | Observation) else claims
    return ReadStatement(sealed.statement, claims, body, logged.seen, leaf)
