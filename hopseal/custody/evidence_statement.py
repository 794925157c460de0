"""Evidence statements: what an attestor says of a component, or a broker of the log that it writes.

Owns: the claims of ``t: att``, and when they count. Does not own: what made the attestor say so; measurements that this
version does not know are ignored. Source: custody-wire §4.2 and §10.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from hopseal.custody.claims import begin_claims
from hopseal.custody.encoding import encode_json
from hopseal.custody.errors import malformed
from hopseal.custody.members import (
    Members,
    one_of,
    read_hash,
    read_integer,
    read_random_id,
    read_spiffe_id,
    text_up_to,
)
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.limits import MAX_LOG_ORIGIN_BYTES, MAX_VKEY_BYTES

TYPE = "att"
Attestors = Mapping[TrustDomain, Collection[SpiffeId]]
_LOG_MEMBERS = frozenset({"origin", "vkey"})
_read_origin = text_up_to(MAX_LOG_ORIGIN_BYTES, min_bytes=1)
_read_vkey = text_up_to(MAX_VKEY_BYTES)


class Verdict(StrEnum):
    """What an attestor found."""

    ATTESTED = "attested"
    WITHDRAWN = "withdrawn"


_read_verdict = one_of(*Verdict)


@dataclass(frozen=True, slots=True)
class LogKey:
    """The key of the log that the issuer writes, announced by it.

    Args:
        origin: of the log's checkpoints.
        vkey: C2SP signed-note verifier key; its name is ``origin``.
    """

    origin: str
    vkey: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceStatement:
    """The claims of one evidence statement.

    Args:
        iss: attestor.
        iat: NumericDate seconds; ``exp`` likewise.
        jti: random ID.
        sub: whom it is about.
        sx: thumbprint of the subject's leaf.
        verdict: what was found.
        log: the key of the issuer's log.
    """

    iss: SpiffeId
    iat: int
    exp: int
    jti: str
    sub: SpiffeId
    sx: str
    verdict: Verdict
    log: LogKey | None = None


def read_evidence(claims: Members) -> EvidenceStatement:
    """The evidence statement in ``claims``, whose type is right.

    Raises:
        CustodyError: [malformed].
    """
    return EvidenceStatement(
        iss=claims.required("iss", read_spiffe_id),
        iat=claims.required("iat", read_integer),
        exp=claims.required("exp", read_integer),
        jti=claims.required("jti", read_random_id),
        sub=claims.required("sub", read_spiffe_id),
        sx=claims.required("sx", read_hash),
        verdict=Verdict(claims.required("verdict", _read_verdict)),
        log=claims.optional("log", _read_log_key),
    )


def encode_evidence(evidence: EvidenceStatement) -> bytes:
    """The claims as JSON, in the order of custody-wire §4.2."""
    members: dict[str, object] = {
        "iss": str(evidence.iss),
        "iat": evidence.iat,
        "exp": evidence.exp,
        "jti": evidence.jti,
        "sub": str(evidence.sub),
        "sx": evidence.sx,
        "verdict": evidence.verdict.value,
    }
    if evidence.log is not None:
        members["log"] = {"origin": evidence.log.origin, "vkey": evidence.log.vkey}
    return encode_json(begin_claims(TYPE) | members)


def is_accepted(evidence: EvidenceStatement, attestors: Attestors, *, sub: SpiffeId, x5t: str, now: int) -> bool:
    """Whether ``evidence``, whose seal holds, says now that ``sub`` with the leaf ``x5t`` is attested.

    Args:
        evidence: what does not count is to be treated as absent.
        attestors: configured, by the trust domain that each may speak about.
        sub: the component that evidence is wanted for.
        x5t: thumbprint of its leaf in use.
        now: NumericDate seconds.
    """
    return (
        evidence.iss in attestors.get(evidence.sub.trust_domain, ())
        and evidence.iss.trust_domain == evidence.sub.trust_domain
        and evidence.sub == sub
        and evidence.sx == x5t
        and evidence.verdict is Verdict.ATTESTED
        and now < evidence.exp
    )


def _read_log_key(value: object, where: str) -> LogKey:
    members = Members.read(value, where).only(_LOG_MEMBERS)
    key = LogKey(members.required("origin", _read_origin), members.required("vkey", _read_vkey))
    if not key.vkey.startswith(f"{key.origin}+"):
        raise malformed(f"{where}.vkey is the key of another log")
    return key
