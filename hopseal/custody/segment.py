"""Segments: what passed on a connection that stays open, as each broker says it from time to time in its own log.

Owns: the claims of ``t: seg``. Does not own: when they are made; they never travel. Source: custody-wire §7.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.custody.claims import begin_claims
from hopseal.custody.encoding import encode_json
from hopseal.custody.members import Members, read_hash, read_integer, read_random_id, read_spiffe_id
from hopseal.custody.outcome import Taken, read_taken
from hopseal.ids import SpiffeId

TYPE = "seg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The claims of one segment.

    Args:
        iss: caller or callee, whose broker saw it.
        aud: the other one.
        iat: NumericDate seconds.
        jti: random ID.
        cid: chain ID of the opening record.
        rec: statement hash of the opening record.
        seq: how many there were before.
        up: what passed from caller to callee since the beginning.
        down: what passed back.
    """

    iss: SpiffeId
    aud: SpiffeId
    iat: int
    jti: str
    cid: str
    rec: str
    seq: int
    up: Taken
    down: Taken


def read_segment(claims: Members) -> Segment:
    """The segment in ``claims``, whose type is right.

    Raises:
        CustodyError: [malformed].
    """
    return Segment(
        iss=claims.required("iss", read_spiffe_id),
        aud=claims.required("aud", read_spiffe_id),
        iat=claims.required("iat", read_integer),
        jti=claims.required("jti", read_random_id),
        cid=claims.required("cid", read_random_id),
        rec=claims.required("rec", read_hash),
        seq=claims.required("seq", read_integer),
        up=claims.required("up", read_taken),
        down=claims.required("down", read_taken),
    )


def encode_segment(segment: Segment) -> bytes:
    """The claims as JSON, in the order of custody-wire §7.3."""
    members = {
        "iss": str(segment.iss),
        "aud": str(segment.aud),
        "iat": segment.iat,
        "jti": segment.jti,
        "cid": segment.cid,
        "rec": segment.rec,
        "seq": segment.seq,
        "up": segment.up.to_members(),
        "down": segment.down.to_members(),
    }
    return encode_json(begin_claims(TYPE) | members)
