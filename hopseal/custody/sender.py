"""Building the records of outgoing calls.

Owns: roots, children, sibling roots, the check of what authority is left.
Does not own: which inbound record a call extends, ``rqb`` (``binding``), the log, which must hold the record before it
is sent, and the clock, randomness and keys, which arrive as arguments.
Source: custody-wire §5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hopseal.custody.authority import Authority, Narrowing
from hopseal.custody.behalf import check_scope
from hopseal.custody.delegation import Approval, Continuation, Task
from hopseal.custody.encoding import encode_b64url
from hopseal.custody.errors import Code, refusal
from hopseal.custody.members import ID_BYTES
from hopseal.custody.receiver import Accepted
from hopseal.custody.record import Record
from hopseal.custody.seal import Signer
from hopseal.custody.sealing import seal_each
from hopseal.custody.usertoken import UserToken
from hopseal.errors import BugError
from hopseal.ids import SpiffeId
from hopseal.limits import (
    AUTHORITY_LIFETIME_S,
    DEFAULT_RECORD_LIFETIME_S,
    MAX_RECORDS,
)


@dataclass(frozen=True, slots=True)
class Call:
    """What one outgoing call says about itself, whatever it continues.

    Args:
        iss: calling component.
        aud: SPIFFE ID of the callee, or origin at egress.
        iat: NumericDate seconds, now.
        jti: random ID, see :func:`random_id`; a retry is a new record with a new one.
        rqb: request binding.
        operations: names of the operation that the callee will derive; the remaining authority must cover one.
        srv: thumbprint of the callee's server leaf.
        by: this broker.
        op: readable operation.
        based_on: receipts that the call is based on.
        apv: approvals.
        rr: a signed response is required.
        bm: ``"stream"`` if ``rqb`` does not bind the body; a closing statement must follow it.
        tid: W3C trace-id.
        lifetime_s: exp - iat.
    """

    iss: SpiffeId
    aud: str
    iat: int
    jti: str
    rqb: str
    operations: tuple[str, ...]
    srv: str | None = None
    by: SpiffeId | None = None
    op: str | None = None
    based_on: tuple[str, ...] | None = None
    apv: tuple[Approval, ...] | None = None
    rr: bool | None = None
    bm: str | None = None
    tid: str | None = None
    lifetime_s: int = DEFAULT_RECORD_LIFETIME_S


def random_id(randomness: bytes) -> str:
    """``jti``, ``cid`` or handle out of 16 random bytes."""
    if len(randomness) != ID_BYTES:
        raise BugError("random_id", "an ID is made of 16 random bytes")
    return encode_b64url(randomness)


def build_root(
    call: Call,
    *,
    cid: str,
    task: Task,
    auth: Authority,
    token: UserToken | None = None,
    cont: Continuation | None = None,
) -> Record:
    """The first record of a new chain.

    Args:
        call: what it says about itself.
        cid: random ID of the chain.
        task: what it works on.
        auth: the most that it allows.
        token: of the user that it acts for; None acts on nobody's behalf (``obo`` is null).
        cont: the earlier chain that it continues.

    Raises:
        CustodyError: [authority] if ``auth`` lasts too long, does not cover ``call`` or has not a scope within the
            token's, or if the token was issued to another workload.
    """
    if auth.exp - call.iat > AUTHORITY_LIFETIME_S:
        raise refusal(Code.AUTHORITY, "the authority lasts too long")
    if token is not None:
        if token.holder.x5t is None and not token.holder.is_for(call.iss, ""):
            raise refusal(Code.AUTHORITY, "the token was issued to another workload")
        check_scope(auth, token)
    root_claims = frozenset({"obo", "task", "auth"} | ({"cont"} if cont else set()))
    obo = token.obo if token else None
    root = replace(_base(call, cid, hop=0), root_claims=root_claims, obo=obo, task=task, auth=auth, cont=cont)
    _check_authority(auth, call, hop=0)
    return root


def build_sibling(call: Call, first: Record) -> Record:
    """Another root of the chain that ``first`` began, with the same task and authority.

    Raises:
        CustodyError: [authority] if that authority does not cover ``call``.
    """
    if first.hop != 0 or first.auth is None or first.iss != call.iss:
        raise BugError("sibling_root", "a sibling continues a root of the same component")
    _check_authority(first.auth, call, hop=0)
    return replace(
        _base(call, first.cid, hop=0),
        root_claims=first.root_claims,
        obo=first.obo,
        task=first.task,
        auth=first.auth,
        cont=first.cont,
    )


def build_child(call: Call, parent: Accepted, narrowing: Narrowing | None = None) -> Record:
    """The record that continues an accepted request.

    Raises:
        CustodyError: [too_long], or [authority] if what the parent leaves does not cover ``call``, or ``narrowing``
            widens it.
    """
    newest = parent.newest.record
    if newest.aud != str(call.iss):
        raise BugError("handoff", "only the receiver of a record may continue it", detail=f"{newest.aud} {call.iss}")
    hop = newest.hop + 1
    if hop >= MAX_RECORDS:
        raise refusal(Code.TOO_LONG)
    authority = parent.authority.narrow(narrowing) if narrowing else parent.authority
    _check_authority(authority, call, hop)
    return replace(_base(call, newest.cid, hop), prev=parent.newest.hash, att=narrowing)


def seal_records(records: Sequence[Record], signer: Signer, now: int) -> tuple[str, ...]:
    """The sealed text of each of ``records``, in their order; see :func:`hopseal.custody.sealing.seal_each`.

    Raises:
        UnavailableError: ``svid_expired``, the leaf is too close to its end (or not begun) at ``now``.
    """
    return seal_each(records, signer, now)


def _base(call: Call, cid: str, hop: int) -> Record:
    return Record(
        iss=call.iss,
        aud=call.aud,
        iat=call.iat,
        exp=call.iat + call.lifetime_s,
        jti=call.jti,
        cid=cid,
        hop=hop,
        rqb=call.rqb,
        srv=call.srv,
        by=call.by,
        op=call.op,
        based_on=call.based_on,
        apv=call.apv,
        rr=call.rr,
        bm=call.bm,
        tid=call.tid,
    )


def _check_authority(authority: Authority, call: Call, hop: int) -> None:
    authority.check_call(hop=hop, now=call.iat, callee=call.aud, operations=call.operations)
