"""Observations: what a connector saw of a server that makes no receipts.

Owns: the claims of ``t: obs``. It is the connector's word and not the server's, and of a type of its own so that it
can never pass as a receipt. Source: custody-wire §7.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.custody.claims import begin_claims
from hopseal.custody.encoding import encode_json
from hopseal.custody.errors import malformed
from hopseal.custody.members import Members, read_hash, read_host
from hopseal.custody.outcome import Outcome, read_outcome
from hopseal.ids import SpiffeId

TYPE = "obs"


@dataclass(frozen=True, slots=True)
class Observation:
    """The claims of one observation.

    Args:
        outcome: ``iss`` and ``aud`` are both the connector.
        host: of the server, with its port unless that is 443.
        spki: SHA-256 of the server's public key.
    """

    outcome: Outcome
    host: str
    spki: str

    @property
    def iss(self) -> SpiffeId:
        """The connector."""
        return self.outcome.iss


def read_observation(claims: Members) -> Observation:
    """The observation in ``claims``, whose type is right.

    Raises:
        CustodyError: [malformed].
    """
    outcome = read_outcome(claims)
    if outcome.iss != outcome.aud:
        raise malformed("an observation is for somebody else than its issuer")
    return Observation(outcome, claims.required("host", read_host), claims.required("spki", read_hash))


def encode_observation(observation: Observation) -> bytes:
    """The claims as JSON: those of a receipt, then what is observed only."""
    outside = {"host": observation.host, "spki": observation.spki}
    return encode_json(begin_claims(TYPE) | observation.outcome.to_members() | outside)
