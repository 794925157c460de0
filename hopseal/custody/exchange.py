"""The two statements that end an exchange: the callee's receipt, and the caller's close of a streamed body.

Owns: who may have sealed them, what they must repeat of the request's record, and the order of these checks: as in §6,
so that no signature is checked for a message that fails for free. The first failure gives the code.
Does not own: sockets, holding back a response until its receipt is verified, the log.
Source: custody-wire §7.1 (caller checks) and §7.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from hopseal.custody.binding import BodySum, Header, bind_response, bind_trailers
from hopseal.custody.certs import CertificateCache, KnownCertificates
from hopseal.custody.closing import Closing, parse_sealed_closing
from hopseal.custody.errors import Code, refusal
from hopseal.custody.headers import parse_certificate_element
from hopseal.custody.outcome import Outcome, Taken
from hopseal.custody.receipt import Receipt, parse_sealed_receipt
from hopseal.custody.record import Record, SealedRecord
from hopseal.custody.seal import thumbprint
from hopseal.custody.sealed import Sealed
from hopseal.custody.trailing_fields import TrailingFields, read_closing_fields, read_receipt_fields
from hopseal.custody.verification import Bundles, StatementVerifier, Verified
from hopseal.ids import SpiffeId
from hopseal.limits import CLOCK_SKEW_S
from hopseal.verify import SvidError, parse_svid_leaf

VerifiedReceipt = Verified[Sealed[Receipt]]
VerifiedClosing = Verified[Sealed[Closing]]


class Caches(Protocol):
    """What earlier messages left behind; a ``ReceiverState`` is one too."""

    @property
    def certificates(self) -> CertificateCache:
        """Of earlier messages."""
        ...

    @property
    def verifier(self) -> StatementVerifier:
        """With the seals and paths that it verified."""
        ...


@dataclass(frozen=True, slots=True)
class CallerState:
    """The caches of a component that only calls."""

    certificates: CertificateCache = field(default_factory=CertificateCache)
    verifier: StatementVerifier = field(default_factory=StatementVerifier)


@dataclass(frozen=True, slots=True)
class Response:
    """What came back for one request, when it had ended.

    Args:
        status: as on the wire.
        headers: raw list in wire order.
        body: the sum of all its bytes on the wire, without a final receipt comment.
        server_chain: DER certificates of the connection, leaf first.
        trailers: raw list after the body.
        comment: sealed text of the final comment of an event stream.
        request: what was sent of the request until now, if it streams.
    """

    status: int
    headers: Sequence[Header]
    body: BodySum
    server_chain: tuple[bytes, ...]
    trailers: Sequence[Header] = ()
    comment: str | None = None
    request: BodySum | None = None


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """What followed the head of a streamed request.

    Args:
        body: the sum of all its bytes on the wire.
        trailers: raw list after the body.
        peer_chain: DER certificates of the connection, leaf first.
    """

    body: BodySum
    trailers: Sequence[Header]
    peer_chain: tuple[bytes, ...]


def verify_receipt(
    request: SealedRecord, response: Response, bundles: Bundles, state: Caches, now: int
) -> VerifiedReceipt | None:
    """The verified receipt of ``response``; None if there is none and the record does not ask for one.

    Args:
        request: the caller's own record of the request.
        response: what came back.
        bundles: by trust domain, never merged.
        state: of earlier messages.
        now: NumericDate seconds, read after the response had ended.

    Raises:
        CustodyError: the first check that fails; [receipt_unavailable] if there is none and ``rr`` asks for one.
    """
    fields = read_receipt_fields(response.headers, response.trailers, response.comment)  # 1, 2
    if fields is None:
        if request.record.rr:
            raise refusal(Code.RECEIPT_UNAVAILABLE, "the response carries no receipt")
        return None
    sealed = parse_sealed_receipt(fields.sealed)  # 3
    known = _know_certificates(sealed.statement.seal.x5t, fields, response.server_chain, state)  # 4
    _check_leaf(sealed.statement.seal.x5t, response.server_chain, known)  # 5
    outcome, record = sealed.claims.outcome, request.record
    _check_parties(outcome.iss, str(outcome.aud), by=record.aud, to=str(record.iss))  # 6
    _check_time(outcome.iat, record, now)
    _check_response(outcome, response)  # 7
    _check_record(outcome.rec, outcome.cid, request)  # 8
    return state.verifier.verify(sealed, known, bundles, now)  # 9


def verify_closing(opening: SealedRecord, end: StreamEnd, bundles: Bundles, state: Caches, now: int) -> VerifiedClosing:
    """The verified closing statement of a streamed request.

    Args:
        opening: the record at its beginning, accepted before.
        end: what followed.
        bundles: by trust domain, never merged.
        state: of earlier messages.
        now: NumericDate seconds, read after the stream had ended.

    Raises:
        CustodyError: the first check that fails; [missing] if the stream ended without one, for which a receipt says
            ``fin: abort``.
    """
    fields = read_closing_fields(end.trailers)  # 1, 2
    sealed = parse_sealed_closing(fields.sealed)  # 3
    known = _know_certificates(sealed.statement.seal.x5t, fields, end.peer_chain, state)  # 4
    _check_leaf(sealed.statement.seal.x5t, end.peer_chain, known)  # 5
    closing, record = sealed.claims, opening.record
    _check_parties(closing.iss, str(closing.aud), by=str(record.iss), to=record.aud)  # 6
    _check_time(closing.iat, record, now)
    if closing.body != replace(end.body, trailers=bind_trailers(end.trailers)):  # 7
        raise refusal(Code.BINDING, "the closing statement was made for another body")
    _check_record(closing.rec, closing.cid, opening)  # 8
    return state.verifier.verify(sealed, known, bundles, now)  # 9


def _know_certificates(
    x5t: str, fields: TrailingFields, connection: tuple[bytes, ...], state: Caches
) -> KnownCertificates:
    ders = tuple(parse_certificate_element(element) for element in fields.certs)
    peer = thumbprint(connection[0]) if connection else ""
    for der in ders:
        state.certificates.add(der, peer)
    known = KnownCertificates((*ders, *connection), state.certificates)
    if known.get(x5t) is None:
        raise refusal(Code.UNRESOLVED, missing=(f"cert:{x5t}",))
    return known


def _check_leaf(x5t: str, connection: tuple[bytes, ...], known: KnownCertificates) -> None:
    """The connection's own leaf or, if that was rotated since, another of the same name."""
    if not connection:
        raise refusal(Code.IDENTITY, "the connection shows no certificate")
    if x5t == thumbprint(connection[0]):
        return
    names = {_name(known.get(x5t)), _name(connection[0])}
    if len(names) != 1 or None in names:
        raise refusal(Code.IDENTITY, "sealed by another component than the connection's")


def _name(der: bytes | None) -> SpiffeId | None:
    try:
        return parse_svid_leaf(der).spiffe_id if der is not None else None
    except SvidError:
        return None


def _check_parties(iss: SpiffeId, aud: str, *, by: str, to: str) -> None:
    if str(iss) != by:
        raise refusal(Code.IDENTITY, f"made by {iss}, not by {by}")
    if aud != to:
        raise refusal(Code.AUDIENCE, f"made for {aud}, not for {to}")


def _check_time(iat: int, record: Record, now: int) -> None:
    if not record.iat - CLOCK_SKEW_S <= iat <= now + CLOCK_SKEW_S:
        raise refusal(Code.EXPIRED, "made before its record, or in the future")


def _check_response(outcome: Outcome, response: Response) -> None:
    if outcome.st != response.status or outcome.rsb != bind_response(response.status, response.headers):
        raise refusal(Code.BINDING, "the receipt was made for another response")
    if outcome.body != replace(response.body, trailers=bind_trailers(response.trailers)):
        raise refusal(Code.BINDING, "the receipt was made for another body")
    if outcome.req is not None and not (
        response.request and outcome.req.is_taken_of(Taken.of(response.request), outcome.fin)
    ):
        raise refusal(Code.BINDING, "the receipt was made for another streamed request")


def _check_record(rec: str, cid: str, request: SealedRecord) -> None:
    if rec != request.hash or cid != request.record.cid:
        raise refusal(Code.CHAIN, "made for another request")
