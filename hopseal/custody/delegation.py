"""The object claims of a root, and approvals: on whose behalf, which task, which earlier chain.

Owns: their shapes. Does not own: verification of user tokens or approval evidence.
Source: custody-wire §4.3, §8.1, §8.2 and §8.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.custody.members import (
    Members,
    one_of,
    read_hash,
    read_integer,
    read_random_id,
    read_text,
    text_up_to,
)
from hopseal.limits import MAX_PURPOSE_BYTES, MAX_TASK_ID_BYTES

_OBO_MEMBERS = frozenset({"iss", "sub", "typ", "th", "txn", "exp"})
_CONTINUATION_MEMBERS = frozenset({"rec", "cid", "why"})
_read_token_type = one_of("txn", "at", "idjag")
_read_approval_type = one_of("ciba", "mcp-elicit", "webauthn", "mission", "ticket")
_read_reason = one_of("boundary", "resume", "queue")


@dataclass(frozen=True, slots=True)
class OnBehalfOf:
    """The user token that a chain acts on (``obo``); ``th`` is its hash, ``exp`` NumericDate seconds."""

    iss: str
    sub: str
    typ: str
    th: str
    exp: int
    txn: str | None = None

    def to_json(self) -> dict[str, object]:
        """The claim."""
        return _present(iss=self.iss, sub=self.sub, typ=self.typ, th=self.th, txn=self.txn, exp=self.exp)


@dataclass(frozen=True, slots=True)
class Task:
    """What the chain works on (``task``); only known members are kept.

    Args:
        id: of the task or mission.
        iss: who issued it.
        intent_hash: ``ih``, hash of the intent text.
        authority_hash: ``ah``, hash of the approved authority.
        purpose: ``pc``, a short code.
    """

    id: str
    iss: str | None = None
    intent_hash: str | None = None
    authority_hash: str | None = None
    purpose: str | None = None

    def to_json(self) -> dict[str, object]:
        """The claim."""
        return _present(id=self.id, iss=self.iss, ih=self.intent_hash, ah=self.authority_hash, pc=self.purpose)


@dataclass(frozen=True, slots=True)
class Approval:
    """Evidence that somebody approved (one of ``apv``); it never widens authority."""

    typ: str
    id: str
    evidence_hash: str
    by: str
    at: int

    def to_json(self) -> dict[str, object]:
        """The claim."""
        return _present(typ=self.typ, id=self.id, h=self.evidence_hash, by=self.by, at=self.at)


@dataclass(frozen=True, slots=True)
class Continuation:
    """The earlier chain that this root continues (``cont``)."""

    rec: str
    cid: str
    why: str

    def to_json(self) -> dict[str, object]:
        """The claim."""
        return _present(rec=self.rec, cid=self.cid, why=self.why)


def parse_obo(value: object, where: str) -> OnBehalfOf | None:
    """The claim ``obo``; None for the explicit null of an autonomous root."""
    if value is None:
        return None
    members = Members.read(value, where).only(_OBO_MEMBERS)
    return OnBehalfOf(
        iss=members.required("iss", read_text),
        sub=members.required("sub", read_text),
        typ=members.required("typ", _read_token_type),
        th=members.required("th", read_hash),
        exp=members.required("exp", read_integer),
        txn=members.optional("txn", read_text),
    )


def parse_task(value: object, where: str) -> Task:
    """The claim ``task``; unknown members are ignored."""
    members = Members.read(value, where)
    return Task(
        id=members.required("id", text_up_to(MAX_TASK_ID_BYTES, min_bytes=1)),
        iss=members.optional("iss", read_text),
        intent_hash=members.optional("ih", read_hash),
        authority_hash=members.optional("ah", read_hash),
        purpose=members.optional("pc", text_up_to(MAX_PURPOSE_BYTES)),
    )


def parse_approval(value: object, where: str) -> Approval:
    """One object of the claim ``apv``; unknown members are ignored."""
    members = Members.read(value, where)
    return Approval(
        typ=members.required("typ", _read_approval_type),
        id=members.required("id", read_text),
        evidence_hash=members.required("h", read_hash),
        by=members.required("by", read_text),
        at=members.required("at", read_integer),
    )


def parse_continuation(value: object, where: str) -> Continuation:
    """The claim ``cont``."""
    members = Members.read(value, where).only(_CONTINUATION_MEMBERS)
    return Continuation(
        rec=members.required("rec", read_hash),
        cid=members.required("cid", read_random_id),
        why=members.required("why", _read_reason),
    )


def _present(**members: object) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}
