"""SVIDs as values: what an upstream delivers and a component receives.

Owns: the shape. Does not own: verification (``hopseal.verify``) or issuing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hopseal.ids import SpiffeId


@dataclass(frozen=True, slots=True)
class X509Svid:
    """One X.509-SVID with its private key.

    Args:
        spiffe_id: the single URI SAN of the leaf.
        chain_der: leaf first, then intermediates, each one DER certificate.
        key_pkcs8: PKCS#8 DER private key; not shown in ``repr``.
        expires_at: NumericDate seconds, the leaf's notAfter.
        hint: the operator's hint that tells several SVIDs apart; may be empty.
    """

    spiffe_id: SpiffeId
    chain_der: tuple[bytes, ...]
    key_pkcs8: bytes = field(repr=False)
    expires_at: int
    hint: str = ""


@dataclass(frozen=True, slots=True)
class JwtSvid:
    """One JWT-SVID; the token is a bearer secret and not shown in ``repr``."""

    spiffe_id: SpiffeId
    token: str = field(repr=False)
    expires_at: int
    hint: str = ""
