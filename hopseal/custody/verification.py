"""Verification of single statements: certificate, identity, inclusion and signature at a time T.

Owns: step 5 of the receiver, for statements of every type, and the proof type that only it builds.
Does not own: which statement needs it, and how statements relate.
Source: custody-wire §6.5 and §4.2 (verified-seal cache).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hopseal.bundle import Bundle
from hopseal.custody.cache import BoundedCache
from hopseal.custody.certs import KnownCertificates
from hopseal.custody.claims import Claims
from hopseal.custody.errors import Code, refusal
from hopseal.custody.record import SealedRecord
from hopseal.custody.seal import Seal, verify_inclusion, verify_signature
from hopseal.custody.sealed import Sealed
from hopseal.ids import TrustDomain
from hopseal.limits import PATH_CACHE_ENTRIES, SEAL_CACHE_ENTRIES
from hopseal.verify import SvidError, SvidLeaf, ValidPath, parse_svid_leaf, verify_path

Bundles = Mapping[TrustDomain, Bundle]
S = TypeVar("S", bound=Sealed[Claims])
_PathKey = tuple[str, tuple[bytes, ...]]
_SealFacts = tuple[str, int, bytes]  # x5t, n, root


@dataclass(frozen=True, slots=True)
class Verified(Generic[S]):
    """Proof that the holder of the key certified for ``sealed.claims.iss`` sealed this statement."""

    sealed: S


VerifiedRecord = Verified[SealedRecord]


def _seal_cache() -> BoundedCache[bytes, _SealFacts]:
    return BoundedCache(SEAL_CACHE_ENTRIES, SEAL_CACHE_ENTRIES)


def _path_cache() -> BoundedCache[_PathKey, ValidPath]:
    return BoundedCache(PATH_CACHE_ENTRIES, PATH_CACHE_ENTRIES)


@dataclass(frozen=True, slots=True)
class StatementVerifier:
    """Verifies statements and remembers what was expensive and held; failures are never remembered.

    Args:
        seals: verified seals, by SHA-256 of the seal's text.
        paths: validated paths, by leaf and bundle.
    """

    seals: BoundedCache[bytes, _SealFacts] = field(default_factory=_seal_cache)
    paths: BoundedCache[_PathKey, ValidPath] = field(default_factory=_path_cache)

    def verify(self, sealed: S, known: KnownCertificates, bundles: Bundles, at: int) -> Verified[S]:
        """Proof that ``sealed`` holds at ``at`` (NumericDate seconds).

        Raises:
            CustodyError: [unresolved], [unavailable], [untrusted], [identity], [signature].
        """
        seal = sealed.statement.seal
        der = known.get(seal.x5t)
        if der is None:
            raise refusal(Code.UNRESOLVED, missing=(f"cert:{seal.x5t}",))
        if not bundles:
            raise refusal(Code.UNAVAILABLE, "no bundle is known yet")
        try:
            leaf = parse_svid_leaf(der)  # (a)
            self._verify_path(leaf, seal.x5t, known, bundles, at)  # (b)
        except SvidError as error:
            raise refusal(Code.UNTRUSTED, f"{error.message} {error.detail}") from error
        if sealed.claims.iss != leaf.spiffe_id:  # (c)
            raise refusal(Code.IDENTITY, f"{sealed.claims.iss} sealed by {leaf.spiffe_id}")
        verify_inclusion(sealed.statement)  # (d)
        self._verify_signature(seal, leaf)
        return Verified(sealed)

    def _verify_path(self, leaf: SvidLeaf, x5t: str, known: KnownCertificates, bundles: Bundles, at: int) -> None:
        bundle = bundles.get(leaf.spiffe_id.trust_domain)
        key = (x5t, bundle.x509_authorities if bundle else ())
        path = self.paths.get(key)
        if path is None or not path.valid_from <= at <= path.valid_until:
            self.paths.put(key, verify_path(leaf, known.named, bundles, at), owner="")

    def _verify_signature(self, seal: Seal, leaf: SvidLeaf) -> None:
        facts = (seal.x5t, seal.n, seal.root)
        if self.seals.get(seal.key) != facts:
            verify_signature(seal, leaf.public_key)
            self.seals.put(seal.key, facts, owner="")
