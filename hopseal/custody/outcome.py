"""What a request came to: the claims that receipts and observations share.

Owns: their types and order. Does not own: who may say so (``receipt``, ``observation``), and whether it is true.
Source: custody-wire §7.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hopseal.custody.binding import BodySum
from hopseal.custody.errors import malformed
from hopseal.custody.kids import Kids, kids_to_json, parse_kids
from hopseal.custody.members import (
    Members,
    integer_between,
    one_of,
    read_hash,
    read_integer,
    read_random_id,
    read_spiffe_id,
    text_up_to,
)
from hopseal.ids import SpiffeId
from hopseal.limits import MAX_DECISION_BYTES, MAX_STATUS, MIN_STATUS


class Fin(StrEnum):
    """How a body, and with it the exchange, ended."""

    EOF = "eof"
    ABORT = "abort"
    DENY = "deny"
    EARLY = "early"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a callee took of a streamed request.

    Args:
        length: ``len``, bytes.
        cd: their SHA-256.
        messages: ``n``, if they are a sequence of messages.
    """

    length: int
    cd: str
    messages: int | None = None

    @classmethod
    def of(cls, body: BodySum) -> Taken:
        """All of a request that came to ``body`` so far."""
        return cls(body.length, body.cd, body.messages)

    def may_grow_to(self, later: Taken) -> bool:
        """Whether ``later`` can be the same body further on."""
        return self == later if self.length == later.length else self.length < later.length

    def is_taken_of(self, sent: Taken, fin: Fin) -> bool:
        """Whether a callee that ended so can have taken this of ``sent``: all of it, for it to be whole."""
        return self == sent if fin is Fin.EOF else self.may_grow_to(sent)

    def to_members(self) -> dict[str, object]:
        """The claim ``req``."""
        members: dict[str, object] = {"len": self.length, "cd": self.cd}
        return members if self.messages is None else members | {"n": self.messages}


_TAKEN_MEMBERS = frozenset({"len", "cd", "n"})


def read_taken(value: object, where: str) -> Taken:
    """``len``, ``cd`` and perhaps ``n`` of one direction.

    Raises:
        CustodyError: [malformed].
    """
    members = Members.read(value, where).only(_TAKEN_MEMBERS)
    return Taken(
        members.required("len", read_integer), members.required("cd", read_hash), members.optional("n", read_integer)
    )


_read_fin = one_of(*Fin)
_read_status = integer_between(MIN_STATUS, MAX_STATUS)
_read_decision = text_up_to(MAX_DECISION_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One response as its issuer saw it.

    Args:
        iss: who says so.
        aud: to whom.
        iat: NumericDate seconds.
        jti: random ID.
        cid: chain ID of the request's record.
        rec: statement hash of the request's record.
        st: status of the response.
        rsb: response binding.
        length: ``len``, bytes of the body on the wire.
        cd: SHA-256 of those bytes.
        fin: how it ended.
        kids: receipts obtained while handling the request.
        dec: ID of the decision behind it.
        messages: ``n``, how many the body has, if it is a sequence of messages.
        tlb: binding of the trailers.
        req: what was taken of a streamed request; always there if ``fin`` is ``early``.
    """

    iss: SpiffeId
    aud: SpiffeId
    iat: int
    jti: str
    cid: str
    rec: str
    st: int
    rsb: str
    length: int
    cd: str
    fin: Fin
    kids: Kids
    dec: str | None = None
    messages: int | None = None
    tlb: str | None = None
    req: Taken | None = None

    @property
    def body(self) -> BodySum:
        """What the body of the answer came to."""
        return BodySum(self.length, self.cd, self.messages, self.tlb)

    def to_members(self) -> dict[str, object]:
        """The claims in the order of custody-wire §7.1, after ``v`` and ``t``."""
        members: dict[str, object] = {
            "iss": str(self.iss),
            "aud": str(self.aud),
            "iat": self.iat,
            "jti": self.jti,
            "cid": self.cid,
            "rec": self.rec,
            "st": self.st,
            "rsb": self.rsb,
            "len": self.length,
            "cd": self.cd,
            "fin": self.fin.value,
            "kids": kids_to_json(self.kids),
        }
        later = {
            "dec": self.dec,
            "n": self.messages,
            "tlb": self.tlb,
            "req": None if self.req is None else self.req.to_members(),
        }
        return members | {name: value for name, value in later.items() if value is not None}


def read_outcome(claims: Members) -> Outcome:
    """The outcome in ``claims``.

    Raises:
        CustodyError: [malformed].
    """
    fin, req = Fin(claims.required("fin", _read_fin)), claims.optional("req", read_taken)
    if fin is Fin.EARLY and req is None:
        raise malformed("an early end says nothing of the request")
    return Outcome(
        iss=claims.required("iss", read_spiffe_id),
        aud=claims.required("aud", read_spiffe_id),
        iat=claims.required("iat", read_integer),
        jti=claims.required("jti", read_random_id),
        cid=claims.required("cid", read_random_id),
        rec=claims.required("rec", read_hash),
        st=claims.required("st", _read_status),
        rsb=claims.required("rsb", read_hash),
        length=claims.required("len", read_integer),
        cd=claims.required("cd", read_hash),
        fin=fin,
        kids=claims.required("kids", parse_kids),
        dec=claims.optional("dec", _read_decision),
        messages=claims.optional("n", read_integer),
        tlb=claims.optional("tlb", read_hash),
        req=req,
    )
