"""Trust bundles as values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hopseal.ids import TrustDomain


@dataclass(frozen=True, slots=True)
class Bundle:
    """The authorities of one trust domain at one moment.

    Args:
        trust_domain: whose authorities these are.
        x509_authorities: DER certificates.
        jwt_keys: JWKS document (UTF-8 JSON) with the JWT authorities; empty if unknown.
        sequence: grows with every change (``spiffe_sequence``); 0 if unknown.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[bytes, ...]
    jwt_keys: bytes = b""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class BundleSet:
    """The bundle of the own trust domain and those it federates with; never merged."""

    own: Bundle
    federated: tuple[Bundle, ...] = field(default=())

    def __iter__(self) -> Iterator[Bundle]:
        yield self.own
        yield from self.federated

    def get(self, trust_domain: TrustDomain) -> Bundle | None:
        """The bundle of exactly ``trust_domain``, or None."""
        return next((bundle for bundle in self if bundle.trust_domain == trust_domain), None)

    @classmethod
    def build(cls, own: TrustDomain, bundles: Iterable[Bundle]) -> BundleSet | None:
        """The set out of ``bundles``, or None if the own trust domain is not among them."""
        listed = tuple(bundles)
        mine = next((bundle for bundle in listed if bundle.trust_domain == own), None)
        if mine is None:
            return None
        return cls(mine, tuple(bundle for bundle in listed if bundle.trust_domain != own))
