"""The authorities of a trust domain, and when the next one is due; pure.

Life of an authority of lifetime L: it is published when the one before it is at half its life, signs
from a sixth of L later, so that every verifier knows it before the first SVID of it appears, and stays
published until it expires, so that what it signed last can still be verified.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestor.upstream.embedded import signing
from hopseal.bundle import Bundle
from hopseal.ids import TrustDomain


@dataclass(frozen=True, slots=True)
class Authority:
    """One X.509 authority with the JWT authority of the same life.

    Args:
        certificate: self-signed.
        kid: names the JWT key in JWKS and tokens.
        active_at: NumericDate seconds from which it signs.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)  # has no equality; ``certificate`` tells
    jwt_key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    kid: str
    active_at: int

    @property
    def not_before(self) -> int:
        """NumericDate seconds."""
        return int(self.certificate.not_valid_before_utc.timestamp())

    @property
    def not_after(self) -> int:
        """NumericDate seconds."""
        return int(self.certificate.not_valid_after_utc.timestamp())

    def is_valid(self, now: float) -> bool:
        """Whether ``now`` lies in its life."""
        return self.not_before <= now < self.not_after

    @property
    def half_life(self) -> float:
        """NumericDate seconds at which its successor is due."""
        return (self.not_before + signing.BACKDATE_S + self.not_after) / 2


@dataclass(frozen=True, slots=True)
class AuthoritySet:
    """All authorities of ``trust_domain``, oldest first; ``sequence`` grows with every change."""

    trust_domain: TrustDomain
    sequence: int
    authorities: tuple[Authority, ...]

    def signer(self, now: float) -> Authority | None:
        """The authority that signs at ``now``: of the active ones the newest."""
        active = [each for each in self.authorities if each.is_valid(now) and each.active_at <= now]
        return max(active, key=lambda each: each.active_at, default=None)

    def bundle(self, refresh_hint_s: int) -> Bundle:
        """What verifies the SVIDs of these authorities."""
        return Bundle(
            self.trust_domain,
            tuple(each.certificate.public_bytes(serialization.Encoding.DER) for each in self.authorities),
            signing.jwk_set(
                ((each.kid, each.jwt_key.public_key()) for each in self.authorities),
                sequence=self.sequence,
                refresh_hint_s=refresh_hint_s,
            ),
            self.sequence,
        )


def create_authorities(trust_domain: TrustDomain, now: int, ttl_s: int) -> AuthoritySet:
    """The first set of a new trust domain."""
    return AuthoritySet(trust_domain, 1, (_make_authority(trust_domain, now, ttl_s, active_at=now),))


def decide_rotation(present: AuthoritySet, now: int, ttl_s: int) -> AuthoritySet | None:
    """What ``present`` becomes at ``now``, or None if nothing is due.

    A clock that was set forward or back is no special case: whenever none of the authorities can sign,
    a new one signs at once.
    """
    kept = [each for each in present.authorities if now < each.not_after]
    valid = [each for each in kept if each.is_valid(now)]
    if present.signer(now) is None:
        kept.append(_make_authority(present.trust_domain, now, ttl_s, active_at=now))
    elif max(each.half_life for each in valid) <= now:
        kept.append(_make_authority(present.trust_domain, now, ttl_s, active_at=now + ttl_s // 6))
    if tuple(kept) == present.authorities:
        return None
    return AuthoritySet(present.trust_domain, present.sequence + 1, tuple(kept))


def _make_authority(trust_domain: TrustDomain, now: int, ttl_s: int, *, active_at: int) -> Authority:
    key = signing.make_key()
    certificate = signing.sign_authority(trust_domain, key, now - signing.BACKDATE_S, now + ttl_s)
    return Authority(certificate, key, signing.make_key(), secrets.token_hex(16), active_at)
