"""Certificates that a verifier knows: those of the message, of the connection, and of earlier messages.

Owns: lookup by thumbprint and by subject, the bounded cache. Does not own: whether any of them is trusted.
Nothing is ever fetched from an address in a message. Source: custody-wire §6.4.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509

from hopseal.custody.cache import BoundedCache
from hopseal.custody.seal import thumbprint
from hopseal.limits import CERTIFICATE_CACHE_ENTRIES, CERTIFICATES_PER_PEER
from hopseal.verify import SvidError, parse_certificate, subject_name


class CertificateCache:
    """Certificates of earlier messages, bounded, with a share for each peer."""

    def __init__(self, entries: int = CERTIFICATE_CACHE_ENTRIES, per_peer: int = CERTIFICATES_PER_PEER) -> None:
        self._by_thumbprint: BoundedCache[str, bytes] = BoundedCache(entries, per_peer)
        self._by_subject: dict[bytes, dict[str, x509.Certificate]] = {}

    def __len__(self) -> int:
        return len(self._by_thumbprint)

    def add(self, der: bytes, peer: str) -> None:
        """Keep ``der``, on the account of ``peer``."""
        key = thumbprint(der)
        for forgotten in self._by_thumbprint.put(key, der, peer):
            self._forget_subject(forgotten)
        parsed = _parse(der)
        if parsed is not None:
            subject, certificate = parsed
            self._by_subject.setdefault(subject, {})[key] = certificate

    def get(self, x5t: str) -> bytes | None:
        """DER of the certificate with this thumbprint, or None."""
        return self._by_thumbprint.get(x5t)

    def named(self, subject: bytes) -> tuple[x509.Certificate, ...]:
        """Every certificate whose subject is ``subject`` (DER)."""
        return tuple(self._by_subject.get(subject, {}).values())

    def _forget_subject(self, der: bytes) -> None:
        parsed = _parse(der)
        if parsed is not None:
            same = self._by_subject[parsed[0]]
            del same[thumbprint(der)]
            if not same:
                del self._by_subject[parsed[0]]


class KnownCertificates:
    """What one message can refer to: its own certificates, its connection's, and the cache behind them.

    Args:
        given: DER certificates of the message and of the connection.
        cache: of earlier messages.
    """

    def __init__(self, given: Iterable[bytes], cache: CertificateCache) -> None:
        self._given = {thumbprint(der): der for der in given}
        self._cache = cache

    def get(self, x5t: str) -> bytes | None:
        """DER of the certificate with this thumbprint, or None."""
        return self._given.get(x5t) or self._cache.get(x5t)

    def named(self, subject: bytes) -> list[x509.Certificate]:
        """Every certificate whose subject is ``subject`` (DER)."""
        given = [parsed[1] for parsed in map(_parse, self._given.values()) if parsed and parsed[0] == subject]
        return given + [each for each in self._cache.named(subject) if each not in given]


def _parse(der: bytes) -> tuple[bytes, x509.Certificate] | None:
    try:
        certificate = parse_certificate(der)
        return subject_name(certificate), certificate
    except SvidError:
        return None
