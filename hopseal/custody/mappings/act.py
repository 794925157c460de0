"""A verified chain as the nested ``act`` claim of token exchange, for systems that read only that.

Owns: the export. It is lossy and asserted by whoever issues the token: no signatures, no bindings, no times.
There is no import: an ``act`` proves nothing about a chain. Source: custody-wire §9.2; RFC 8693 §4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from hopseal.custody.receiver import Accepted
from hopseal.errors import BugError
from hopseal.ids import SpiffeId


def delegation_claims(accepted: Accepted) -> dict[str, object]:
    """The claims ``sub`` (absent if the chain acts on nobody's behalf) and ``act`` for an accepted chain."""
    root = accepted.chain[0].sealed.record
    claims: dict[str, object] = {"act": actor_claim(accepted.path)}
    return claims if root.obo is None else {"sub": root.obo.sub, **claims}


def actor_claim(path: Sequence[SpiffeId]) -> dict[str, object]:
    """The claim ``act`` for the issuers of a chain, oldest first: the newest is outermost, the root innermost."""
    if not path:
        raise BugError("actor_claim", "a chain has at least one issuer")
    claim: dict[str, object] = {}
    for issuer in path:
        actor: dict[str, object] = {"iss": issuer.trust_domain.id, "sub": str(issuer)}
        claim = {**actor, "act": claim} if claim else actor
    return claim
