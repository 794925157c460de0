"""Entries of the custody log as values: records, receipts and other statements, certificates, bundles, starts.

Owns: one line and its CRC. Line: CRC-32 of the JSON in eight hex digits, a space, compact JSON, a newline.
Does not own: the file as a whole (``reader``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from hopseal.bundle import Bundle
from hopseal.custody.encoding import decode_base64, parse_token_object
from hopseal.custody.errors import CustodyError
from hopseal.custody.members import Members, list_of, one_of, read_hash, read_integer, read_text
from hopseal.custody.seal import thumbprint
from hopseal.errors import InvalidError
from hopseal.ids import IdentityError, TrustDomain
from hopseal.limits import MAX_LINE_JSON_DEPTH, MAX_RECORDS

_CRC_CHARACTERS = 8
_MAX_AUTHORITIES = 1_024
_read_texts = list_of(read_text, MAX_RECORDS)
_read_ders = list_of(read_text, _MAX_AUTHORITIES)


class LogError(InvalidError):
    """A line is not an entry (code ``log_damaged``)."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__("log_damaged", message, detail=detail)


class Direction(StrEnum):
    """Whose record an entry holds: of a call made here, or of one that came in."""

    SENT = "sent"
    RECEIVED = "received"


@dataclass(frozen=True, slots=True)
class RecordEntry:
    """One record, accepted or refused.

    Args:
        n: position in the log.
        at_ms: when it was written, milliseconds since 1970.
        code: reason code of the refusal; None if accepted.
        detail: for the operator.
        sealed: sealed text; None if the message had no readable record.
        ancestors: sealed texts, oldest first; only of received records.
        iss, aud, jti, exp, cid, hop, op: claims as the writer read them; unverified in a refused entry.
        args_hash: SHA-256 over the canonical form of a tool call's arguments (``custody.jcs``), base64url, as the
            writer read them; no claim of the record. Only of accepted records.
    """

    n: int
    at_ms: int
    direction: Direction
    accepted: bool
    code: str | None
    detail: str | None
    sealed: str | None
    ancestors: tuple[str, ...]
    iss: str | None
    aud: str | None
    jti: str | None
    exp: int | None
    cid: str | None
    hop: int | None
    op: str | None
    args_hash: str | None = None


class StatementKind(StrEnum):
    """What a :class:`StatementEntry` holds (the claim ``t``)."""

    RECEIPT = "rcp"
    OBSERVATION = "obs"
    CLOSING = "cls"
    SEGMENT = "seg"


@dataclass(frozen=True, slots=True)
class StatementEntry:
    """One statement about a record: its receipt, an observation of the answer, or what closes a streamed request.

    Args:
        n: position in the log.
        at_ms: when it was written, milliseconds since 1970.
        code: why a received one does not hold; None if it does.
        detail: for the operator.
        sealed: sealed text; None if an answer brought none that can be read.
        iss, aud, cid: claims as the writer read them; unverified in a refused entry.
        rec: statement hash of the record that it is about.
        st: status of the answer; only of receipts and observations.
    """

    n: int
    at_ms: int
    kind: StatementKind
    direction: Direction
    accepted: bool
    code: str | None
    detail: str | None
    sealed: str | None
    iss: str | None
    aud: str | None
    cid: str | None
    rec: str | None
    st: int | None


@dataclass(frozen=True, slots=True)
class CertificateEntry:
    """A leaf or intermediate that records in this log are sealed with."""

    n: int
    at_ms: int
    x5t: str
    der: bytes


@dataclass(frozen=True, slots=True)
class BundleEntry:
    """A trust bundle from the moment it was first used."""

    n: int
    at_ms: int
    bundle: Bundle


@dataclass(frozen=True, slots=True)
class StartEntry:
    """A broker began to write this log."""

    n: int
    at_ms: int
    node: str
    version: str


@dataclass(frozen=True, slots=True)
class ArtifactEntry:
    """What a log keeps for auditors only: evidence, the announcement of a log's key, a revocation."""

    n: int
    at_ms: int
    kind: str


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """A user token: its hash and its claims, never its signature.

    Args:
        n: position in the log.
        at_ms: when it was written, milliseconds since 1970.
        th: hash of the token.
        claims: its decoded payload.
        workload: SPIFFE ID that the writer's configuration gives to the client ID in ``claims``; None if it gives none.
    """

    n: int
    at_ms: int
    th: str
    claims: dict[str, object]
    workload: str | None = None


@dataclass(frozen=True, slots=True)
class CallEntry:
    """A call of which there is no statement: of a peer without custody, or what passed through a tunnel.

    Args:
        n: position in the log.
        at_ms: when it was written, milliseconds since 1970.
        code: reason code of the refusal; None if accepted.
        detail: for the operator.
        custody: ``none``.
        kind: ``caller`` or ``tunnel``.
        phase: ``begin`` or ``end``.
        id: the same at begin and end.
        iss, aud: SPIFFE ID of the caller, and that of the callee or an origin.
        op: the operation.
        dec: the decision that allowed it.
        x5t: thumbprint of the caller's leaf.
        cid: the chain that it belongs to, or that the callee may begin because of it.
        rec: statement hash of the record that opened the tunnel.
        st, fin, why, received, sent, address: how it ended; None at the beginning.
    """

    n: int
    at_ms: int
    direction: Direction
    accepted: bool
    code: str | None
    detail: str | None
    custody: str
    kind: str
    phase: str
    id: str
    iss: str
    aud: str
    op: str | None
    dec: str | None
    x5t: str | None
    cid: str | None
    rec: str | None
    st: int | None = None
    fin: str | None = None
    why: str | None = None
    received: int | None = None
    sent: int | None = None
    address: str | None = None


LogEntry = (
    RecordEntry | CallEntry | StatementEntry | CertificateEntry | BundleEntry | StartEntry | ArtifactEntry | TokenEntry
)


def parse_line(line: bytes) -> LogEntry:
    """The entry in one line, given without its newline.

    Raises:
        LogError: the CRC does not fit, or the JSON is no entry.
    """
    return parse_entry(read_payload(line))


def parse_entry(payload: bytes) -> LogEntry:
    """The entry in the JSON text of a line.

    Raises:
        LogError: it is no entry.
    """
    try:
        members = Members(parse_token_object(payload, max_depth=MAX_LINE_JSON_DEPTH), "entry")
        kind = members.required("type", one_of(*_PARSERS))
        return _PARSERS[kind](members, members.required("n", read_integer), members.required("at_ms", read_integer))
    except (CustodyError, IdentityError) as error:
        raise LogError("a line with a right checksum is no entry", detail=error.detail) from error


def read_payload(line: bytes) -> bytes:
    """The JSON bytes of one line, given without its newline; what they say is not looked at.

    Raises:
        LogError: the CRC does not fit.
    """
    checksum, space, payload = line[:_CRC_CHARACTERS], line[_CRC_CHARACTERS : _CRC_CHARACTERS + 1], line[9:]
    if space != b" " or checksum != f"{zlib.crc32(payload):08x}".encode("ascii"):
        raise LogError("the checksum of a line does not fit")
    return payload


def format_line(payload: bytes) -> bytes:
    """The whole line, newline included, that holds the JSON text ``payload``."""
    return f"{zlib.crc32(payload):08x} ".encode("ascii") + payload + b"\n"


def _record(members: Members, n: int, at_ms: int) -> RecordEntry:
    return RecordEntry(
        n=n,
        at_ms=at_ms,
        direction=Direction(members.required("dir", one_of(*Direction))),
        accepted=members.required("verdict", one_of("accepted", "refused")) == "accepted",
        code=_nullable_text(members, "code"),
        detail=_nullable_text(members, "detail"),
        sealed=_nullable_text(members, "sealed"),
        ancestors=members.optional("ancestors", _read_texts) or (),
        iss=_nullable_text(members, "iss"),
        aud=_nullable_text(members, "aud"),
        jti=_nullable_text(members, "jti"),
        exp=_nullable_integer(members, "exp"),
        cid=_nullable_text(members, "cid"),
        hop=_nullable_integer(members, "hop"),
        op=_nullable_text(members, "op"),
        args_hash=members.optional("args_hash", read_hash),
    )


def _statement(members: Members, n: int, at_ms: int) -> StatementEntry:
    return StatementEntry(
        n=n,
        at_ms=at_ms,
        kind=StatementKind(members.required("type", read_text)),
        direction=Direction(members.required("dir", one_of(*Direction))),
        accepted=members.required("verdict", one_of("accepted", "refused")) == "accepted",
        code=_nullable_text(members, "code"),
        detail=_nullable_text(members, "detail"),
        sealed=_nullable_text(members, "sealed"),
        iss=_nullable_text(members, "iss"),
        aud=_nullable_text(members, "aud"),
        cid=_nullable_text(members, "cid"),
        rec=_nullable_text(members, "rec"),
        st=_nullable_integer(members, "st"),
    )


def _certificate(members: Members, n: int, at_ms: int) -> CertificateEntry:
    der = decode_base64(members.required("der", read_text))
    x5t = members.required("x5t", read_hash)
    if thumbprint(der) != x5t:
        raise LogError("a certificate is not the one that its thumbprint names")
    return CertificateEntry(n, at_ms, x5t, der)


def _bundle(members: Members, n: int, at_ms: int) -> BundleEntry:
    authorities = tuple(map(decode_base64, members.required("x509", _read_ders)))
    trust_domain = TrustDomain.parse(members.required("td", read_text))
    sequence = members.required("sequence", read_integer)
    return BundleEntry(n, at_ms, Bundle(trust_domain, authorities, sequence=sequence))


def _start(members: Members, n: int, at_ms: int) -> StartEntry:
    return StartEntry(n, at_ms, members.required("node", read_text), members.required("version", read_text))


def _token(members: Members, n: int, at_ms: int) -> TokenEntry:
    claims = Members.read(members.values.get("claims"), "entry.claims").values
    return TokenEntry(n, at_ms, members.required("th", read_hash), dict(claims), _nullable_text(members, "workload"))


def _call(members: Members, n: int, at_ms: int) -> CallEntry:
    phase = members.required("phase", one_of("begin", "end"))
    ended = None if members.values.get("ended") is None else Members.read(members.values["ended"], "entry.ended")
    return CallEntry(
        n=n,
        at_ms=at_ms,
        direction=Direction(members.required("dir", one_of(*Direction))),
        accepted=members.required("verdict", one_of("accepted", "refused")) == "accepted",
        code=_nullable_text(members, "code"),
        detail=_nullable_text(members, "detail"),
        custody=members.required("custody", one_of("none")),
        kind=members.required("kind", one_of("caller", "tunnel")),
        phase=phase,
        id=members.required("id", read_text),
        iss=members.required("iss", read_text),
        aud=members.required("aud", read_text),
        op=_nullable_text(members, "op"),
        dec=_nullable_text(members, "dec"),
        x5t=_nullable_text(members, "x5t"),
        cid=_nullable_text(members, "cid"),
        rec=_nullable_text(members, "rec"),
        st=_nullable_integer(ended, "st") if ended else None,
        fin=_nullable_text(ended, "fin") if ended else None,
        why=_nullable_text(ended, "why") if ended else None,
        received=_nullable_integer(ended, "received") if ended else None,
        sent=_nullable_integer(ended, "sent") if ended else None,
        address=_nullable_text(ended, "address") if ended else None,
    )


def _artifact(members: Members, n: int, at_ms: int) -> ArtifactEntry:
    return ArtifactEntry(n, at_ms, members.required("type", read_text))


def _nullable_text(members: Members, name: str) -> str | None:
    return None if members.values.get(name) is None else members.required(name, read_text)


def _nullable_integer(members: Members, name: str) -> int | None:
    return None if members.values.get(name) is None else members.required(name, read_integer)


_PARSERS: dict[str, Callable[[Members, int, int], LogEntry]] = {
    "rec": _record,
    "call": _call,
    **dict.fromkeys(StatementKind, _statement),
    "cert": _certificate,
    "bundle": _bundle,
    "start": _start,
    "token": _token,
    **dict.fromkeys(("attest", "att", "revoke"), _artifact),
}
