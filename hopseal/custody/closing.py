"""Closing statements: what a caller says that it streamed as the body of a request.

Owns: the claims of ``t: cls``. Does not own: the callee's checks (``exchange``).
Source: custody-wire §7.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.custody.binding import BodySum
from hopseal.custody.claims import begin_claims, read_claims
from hopseal.custody.encoding import encode_json
from hopseal.custody.members import Members, one_of, read_hash, read_integer, read_random_id, read_spiffe_id
from hopseal.custody.outcome import Fin
from hopseal.custody.seal import parse_sealed
from hopseal.custody.sealed import Sealed
from hopseal.ids import SpiffeId

TYPE = "cls"
_read_fin = one_of(Fin.EOF, Fin.ABORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The claims of one closing statement.

    Args:
        iss: caller.
        aud: callee.
        iat: NumericDate seconds.
        jti: random ID.
        cid: chain ID of the opening record.
        rec: statement hash of the opening record.
        cd: SHA-256 of all body bytes on the wire.
        length: ``len``, how many they are.
        fin: ``eof``, or ``abort`` if the caller gave up.
        messages: ``n``, how many the body has, if it is a sequence of messages.
        tlb: binding of the other trailers.
    """

    iss: SpiffeId
    aud: SpiffeId
    iat: int
    jti: str
    cid: str
    rec: str
    cd: str
    length: int
    fin: Fin
    messages: int | None = None
    tlb: str | None = None

    @property
    def body(self) -> BodySum:
        """What the body came to."""
        return BodySum(self.length, self.cd, self.messages, self.tlb)


def read_closing(claims: Members) -> Closing:
    """The closing statement in ``claims``, whose type is right.

    Raises:
        CustodyError: [malformed].
    """
    return Closing(
        iss=claims.required("iss", read_spiffe_id),
        aud=claims.required("aud", read_spiffe_id),
        iat=claims.required("iat", read_integer),
        jti=claims.required("jti", read_random_id),
        cid=claims.required("cid", read_random_id),
        rec=claims.required("rec", read_hash),
        cd=claims.required("cd", read_hash),
        length=claims.required("len", read_integer),
        fin=Fin(claims.required("fin", _read_fin)),
        messages=claims.optional("n", read_integer),
        tlb=claims.optional("tlb", read_hash),
    )


def parse_sealed_closing(text: str) -> Sealed[Closing]:
    """The closing statement in a sealed text.

    Raises:
        CustodyError: [malformed], for a statement of another type too.
    """
    statement = parse_sealed(text)
    return Sealed(statement, read_closing(read_claims(statement.claims, TYPE)[1]))


def encode_closing(closing: Closing) -> bytes:
    """The claims as JSON, in the order of custody-wire §7.3."""
    members: dict[str, object] = {
        "iss": str(closing.iss),
        "aud": str(closing.aud),
        "iat": closing.iat,
        "jti": closing.jti,
        "cid": closing.cid,
        "rec": closing.rec,
        "cd": closing.cd,
        "len": closing.length,
        "fin": closing.fin.value,
    }
    later = {"n": closing.messages, "tlb": closing.tlb}
    return encode_json(begin_claims(TYPE) | members | {name: each for name, each in later.items() if each is not None})
