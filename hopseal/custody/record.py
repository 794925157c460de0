"""Records: the claims of one signed request, parsed strictly and written in one order.

Owns: which claims exist and their types. Does not own: how records relate (``chain``), what they allow (``authority``).
Unknown top-level claims are ignored. Source: custody-wire §4.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.custody.authority import Authority, Narrowing, parse_authority, parse_narrowing
from hopseal.custody.claims import begin_claims, read_claims
from hopseal.custody.delegation import (
    Approval,
    Continuation,
    OnBehalfOf,
    Task,
    parse_approval,
    parse_continuation,
    parse_obo,
    parse_task,
)
from hopseal.custody.encoding import encode_json
from hopseal.custody.members import (
    Members,
    list_of,
    one_of,
    read_audience,
    read_boolean,
    read_hash,
    read_integer,
    read_random_id,
    read_spiffe_id,
    read_trace_id,
    text_up_to,
)
from hopseal.custody.seal import parse_sealed
from hopseal.custody.sealed import Sealed
from hopseal.ids import SpiffeId
from hopseal.limits import MAX_APPROVALS, MAX_BASED_ON, MAX_OPERATION_BYTES

TYPE = "rec"
ROOT_CLAIMS = frozenset({"obo", "task", "auth", "cont"})
_read_based_on = list_of(read_hash, MAX_BASED_ON)
_read_approvals = list_of(parse_approval, MAX_APPROVALS)
_read_body_mode = one_of("stream")
_read_operation = text_up_to(MAX_OPERATION_BYTES)


@dataclass(frozen=True, slots=True)
class Record:
    """The claims of one record; names as on the wire unless that says nothing.

    Args:
        iss: calling component.
        aud: next component, or the origin at egress, as text.
        iat: NumericDate seconds; ``exp`` likewise.
        prev: statement hash of the parent; None in a root.
        rqb: request binding.
        bm: ``"stream"`` or None.
        srv: thumbprint of the server leaf.
        by: broker that signed on behalf.
        op: readable operation, informative.
        based_on: ``in``, receipts that this call is based on.
        att: narrowing.
        apv: approvals.
        rr: signed response required.
        tid: W3C trace-id.
        root_claims: which root-only claims are present; ``obo`` present and None is an autonomous root.
    """

    iss: SpiffeId
    aud: str
    iat: int
    exp: int
    jti: str
    cid: str
    hop: int
    rqb: str
    prev: str | None = None
    bm: str | None = None
    srv: str | None = None
    by: SpiffeId | None = None
    op: str | None = None
    based_on: tuple[str, ...] | None = None
    att: Narrowing | None = None
    apv: tuple[Approval, ...] | None = None
    rr: bool | None = None
    tid: str | None = None
    root_claims: frozenset[str] = frozenset()
    obo: OnBehalfOf | None = None
    task: Task | None = None
    auth: Authority | None = None
    cont: Continuation | None = None


@dataclass(frozen=True, slots=True)
class SealedRecord(Sealed[Record]):
    """A sealed record; nothing about it is verified."""

    @property
    def record(self) -> Record:
        """The claims."""
        return self.claims


def parse_sealed_record(text: str) -> SealedRecord:
    """The record in a sealed text.

    Raises:
        CustodyError: [malformed].
    """
    statement = parse_sealed(text)
    return SealedRecord(statement, parse_record(statement.claims))


def parse_record(payload: bytes) -> Record:
    """The record whose claims are the JSON text ``payload``.

    Raises:
        CustodyError: [malformed], for a statement of another type too.
    """
    return read_record(read_claims(payload, TYPE)[1])


def read_record(claims: Members) -> Record:
    """The record in ``claims``, whose type is right.

    Raises:
        CustodyError: [malformed].
    """
    return Record(
        iss=claims.required("iss", read_spiffe_id),
        aud=claims.required("aud", read_audience),
        iat=claims.required("iat", read_integer),
        exp=claims.required("exp", read_integer),
        jti=claims.required("jti", read_random_id),
        cid=claims.required("cid", read_random_id),
        hop=claims.required("hop", read_integer),
        prev=claims.optional("prev", read_hash),
        rqb=claims.required("rqb", read_hash),
        bm=claims.optional("bm", _read_body_mode),
        srv=claims.optional("srv", read_hash),
        by=claims.optional("by", read_spiffe_id),
        op=claims.optional("op", _read_operation),
        based_on=claims.optional("in", _read_based_on),
        att=claims.optional("att", parse_narrowing),
        apv=claims.optional("apv", _read_approvals),
        rr=claims.optional("rr", read_boolean),
        tid=claims.optional("tid", read_trace_id),
        root_claims=ROOT_CLAIMS.intersection(claims.values),
        obo=claims.optional("obo", parse_obo),
        task=claims.optional("task", parse_task),
        auth=claims.optional("auth", parse_authority),
        cont=claims.optional("cont", parse_continuation),
    )


def encode_record(record: Record) -> bytes:
    """The claims as JSON, in the order of custody-wire §4.3, absent ones left out."""
    claims = begin_claims(TYPE) | {
        "iss": str(record.iss),
        "aud": record.aud,
        "iat": record.iat,
        "exp": record.exp,
        "jti": record.jti,
        "cid": record.cid,
        "hop": record.hop,
        "prev": record.prev,
        "rqb": record.rqb,
        "bm": record.bm,
        "srv": record.srv,
        "by": str(record.by) if record.by else None,
        "op": record.op,
        "in": record.based_on,
        "att": record.att.to_json() if record.att else None,
        "apv": [approval.to_json() for approval in record.apv] if record.apv is not None else None,
        "rr": record.rr,
        "tid": record.tid,
        "obo": record.obo.to_json() if record.obo else None,
        "task": record.task.to_json() if record.task else None,
        "auth": record.auth.to_json() if record.auth else None,
        "cont": record.cont.to_json() if record.cont else None,
    }
    explicit = {"obo"} & record.root_claims
    return encode_json({name: value for name, value in claims.items() if value is not None or name in explicit})
