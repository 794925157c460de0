"""Building the statements that end an exchange: receipts, observations, closing statements.

Owns: what they repeat of the request's record. Does not own: their seal (``sealing``), the log, which must hold them
before they are sent, the clock and randomness, which arrive as arguments.
Source: custody-wire §7.1 and §7.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hopseal.custody.binding import BodySum, Header, bind_response
from hopseal.custody.closing import Closing
from hopseal.custody.errors import Code, refusal
from hopseal.custody.kids import Kids, kids_of
from hopseal.custody.members import read_spiffe_id
from hopseal.custody.observation import Observation
from hopseal.custody.outcome import Fin, Outcome, Taken
from hopseal.custody.receipt import Receipt
from hopseal.custody.record import SealedRecord
from hopseal.errors import BugError
from hopseal.ids import SpiffeId


@dataclass(frozen=True, slots=True)
class Answer:
    """One response as it goes, or came, over the wire.

    Args:
        status: three digits.
        headers: raw list in wire order.
        body: the sum of all its bytes.
        fin: how it ended; ``deny`` if the request was refused.
        kids: statement hashes of the receipts that were obtained for it, in that order.
        dec: ID of the decision behind it.
        req: what was taken of a streamed request.
    """

    status: int
    headers: Sequence[Header]
    body: BodySum
    fin: Fin = Fin.EOF
    kids: Sequence[str] = ()
    dec: str | None = None
    req: BodySum | None = None


def build_receipt(request: SealedRecord, answer: Answer, *, iat: int, jti: str) -> Receipt:
    """The callee's receipt for ``answer``.

    For a refusal only if every check before step 12 of the receiver had passed: see ``receiver.Authenticated``.

    Args:
        request: the verified record of the request.
        answer: what is answered.
        iat: NumericDate seconds, now.
        jti: random ID.

    Raises:
        CustodyError: [malformed] if the record is for an origin, which seals nothing; [binding] if a covered field
            cannot be bound.
    """
    callee = read_spiffe_id(request.record.aud, "aud")
    return Receipt(_outcome(request, answer, iss=callee, aud=request.record.iss, iat=iat, jti=jti))


def build_observation(
    request: SealedRecord, answer: Answer, *, connector: SpiffeId, host: str, spki: str, iat: int, jti: str
) -> Observation:
    """A connector's observation of the answer of a server that does not speak custody.

    Args:
        request: the connector's record of the request, or the one that it was made for.
        answer: what came back; ``abort`` if it broke off.
        connector: whose statement it is.
        host: of the server, with its port unless that is 443.
        spki: SHA-256 of the server's public key, base64url.
        iat: NumericDate seconds, now.
        jti: random ID.
    """
    return Observation(_outcome(request, answer, iss=connector, aud=connector, iat=iat, jti=jti), host, spki)


def build_closing(opening: SealedRecord, body: BodySum, fin: Fin, *, iat: int, jti: str) -> Closing:
    """The caller's statement of what it streamed after ``opening``.

    Raises:
        CustodyError: [malformed] if the record is for an origin.
    """
    if opening.record.bm is None or fin not in {Fin.EOF, Fin.ABORT}:
        raise BugError("closing", "only a stream is closed, and its caller does not deny")
    return Closing(
        iss=opening.record.iss,
        aud=read_spiffe_id(opening.record.aud, "aud"),
        iat=iat,
        jti=jti,
        cid=opening.record.cid,
        rec=opening.hash,
        cd=body.cd,
        length=body.length,
        fin=fin,
        messages=body.messages,
        tlb=body.trailers,
    )


def check_receipt_possible(request: SealedRecord, *, can_sign: bool) -> None:
    """Return if a callee that can sign or not may answer: with ``rr`` never an unsigned success.

    Raises:
        CustodyError: [receipt_unavailable].
    """
    if request.record.rr and not can_sign:
        raise refusal(Code.RECEIPT_UNAVAILABLE, "the caller requires a receipt and no key can sign it")


def _outcome(request: SealedRecord, answer: Answer, *, iss: SpiffeId, aud: SpiffeId, iat: int, jti: str) -> Outcome:
    kids: Kids = kids_of(answer.kids)
    return Outcome(
        iss=iss,
        aud=aud,
        iat=iat,
        jti=jti,
        cid=request.record.cid,
        rec=request.hash,
        st=answer.status,
        rsb=bind_response(answer.status, answer.headers),
        length=answer.body.length,
        cd=answer.body.cd,
        fin=answer.fin,
        kids=kids,
        dec=answer.dec,
        messages=answer.body.messages,
        tlb=answer.body.trailers,
        req=None if answer.req is None else Taken.of(answer.req),
    )
