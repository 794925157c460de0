"""Identities as they arrive from the attestor, checked before anybody uses them.

Owns: turning the bytes of a SPIFFE API message into ``hopseal`` values.
Does not own: verifying chains against a bundle; TLS and the data plane do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from hopseal.bundle import Bundle, BundleSet
from hopseal.errors import InvalidError
from hopseal.ids import IdentityError, SpiffeId, TrustDomain
from hopseal.svid import X509Svid

_SEQUENCE = 0x30  # X.690 §8.9, every certificate is one
_MAX_CHAIN = 8
_MAX_BUNDLE = 64
_SCHEME = "spiffe://"


class SvidMessage(Protocol):
    """What the Workload API and the Broker API say about one X.509-SVID."""

    spiffe_id: str
    x509_svid: bytes
    x509_svid_key: bytes
    bundle: bytes
    hint: str


def parse_svid(message: SvidMessage) -> X509Svid:
    """The SVID in ``message``; its certificate, key and SPIFFE ID belong together.

    Raises:
        InvalidError: they do not, or one of them is malformed (``svid_malformed``).
    """
    try:
        chain = split_certificates(message.x509_svid, _MAX_CHAIN)
        spiffe_id = SpiffeId.parse(message.spiffe_id)
        leaf = x509.load_der_x509_certificate(chain[0])
        key = load_der_private_key(message.x509_svid_key, None)
        certified = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        held = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm, IdentityError) as error:
        raise InvalidError("svid_malformed", "the attestor sent a malformed SVID", detail=str(error)) from error
    if read_spiffe_id(leaf) != spiffe_id or certified != held:
        raise InvalidError("svid_malformed", "the attestor sent an SVID whose parts do not belong together")
    return X509Svid(spiffe_id, chain, message.x509_svid_key, int(leaf.not_valid_after_utc.timestamp()), message.hint)


def parse_bundles(own: TrustDomain, own_der: bytes, federated: Mapping[str, bytes]) -> BundleSet:
    """The bundle of the own trust domain and those it federates with.

    Raises:
        InvalidError: one of them is malformed or empty (``bundle_malformed``).
    """
    try:
        others = tuple(
            Bundle(_parse_trust_domain(name), split_certificates(der, _MAX_BUNDLE))
            for name, der in sorted(federated.items())
        )
        return BundleSet(Bundle(own, split_certificates(own_der, _MAX_BUNDLE)), others)
    except (ValueError, IdentityError) as error:
        raise InvalidError("bundle_malformed", "the attestor sent a malformed bundle", detail=str(error)) from error


def read_spiffe_id(certificate: x509.Certificate) -> SpiffeId | None:
    """The single SPIFFE ID of a certificate; None without exactly one URI name or with a malformed one.

    Source: X509-SVID §2, exactly one URI SAN.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return SpiffeId.parse(uri)
    except (x509.ExtensionNotFound, ValueError, IdentityError):
        return None


def split_certificates(der: bytes, limit: int) -> tuple[bytes, ...]:
    """The concatenated DER certificates, one by one; at least one, at most ``limit``.

    Raises:
        ValueError: a length does not fit, a certificate does not parse, or they are too many or none.
    """
    found: list[bytes] = []
    while der:
        if len(found) == limit:
            raise ValueError(f"more than {limit} certificates")
        size = _read_size(der)
        x509.load_der_x509_certificate(der[:size])
        found.append(der[:size])
        der = der[size:]
    if not found:
        raise ValueError("no certificate")
    return tuple(found)


def _read_size(der: bytes) -> int:
    if len(der) < 2 or der[0] != _SEQUENCE:
        raise ValueError("not a DER sequence")
    if der[1] < 0x80:
        return 2 + der[1]
    octets = der[1] & 0x7F
    if not 1 <= octets <= 3 or len(der) < 2 + octets:
        raise ValueError("a DER length that no certificate has")
    size = 2 + octets + int.from_bytes(der[2 : 2 + octets], "big")
    if size > len(der):
        raise ValueError("a certificate is cut off")
    return size


def _parse_trust_domain(text: str) -> TrustDomain:
    return TrustDomain.parse(text.removeprefix(_SCHEME))
