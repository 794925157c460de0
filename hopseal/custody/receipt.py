"""Receipts: what a callee says that it answered.

Owns: the claims of ``t: rcp``. Does not own: the caller's checks (``exchange``).
Source: custody-wire §7.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.custody.claims import begin_claims, read_claims
from hopseal.custody.encoding import encode_json
from hopseal.custody.members import Members
from hopseal.custody.outcome import Outcome, read_outcome
from hopseal.custody.seal import parse_sealed
from hopseal.custody.sealed import Sealed
from hopseal.ids import SpiffeId

TYPE = "rcp"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The claims of one receipt; ``outcome.iss`` is the callee, ``outcome.aud`` the caller."""

    outcome: Outcome

    @property
    def iss(self) -> SpiffeId:
        """The callee."""
        return self.outcome.iss


def read_receipt(claims: Members) -> Receipt:
    """The receipt in ``claims``, whose type is right.

    Raises:
        CustodyError: [malformed].
    """
    return Receipt(read_outcome(claims))


def parse_sealed_receipt(text: str) -> Sealed[Receipt]:
    """The receipt in a sealed text.

    Raises:
        CustodyError: [malformed], for a statement of another type too.
    """
    statement = parse_sealed(text)
    return Sealed(statement, read_receipt(read_claims(statement.claims, TYPE)[1]))


def encode_receipt(receipt: Receipt) -> bytes:
    """The claims as JSON, in the order of custody-wire §7.1."""
    return encode_json(begin_claims(TYPE) | receipt.outcome.to_members())
