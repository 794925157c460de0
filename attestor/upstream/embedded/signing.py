"""Making certificates and tokens; no I/O and no clock.

Source: X509-SVID §§2 to 4 and appendix A; JWT-SVID §§2 and 3; SPIFFE Trust Domain and Bundle §4.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hopseal.ids import SpiffeId, TrustDomain
from hopseal.svid import JwtSvid, X509Svid

BACKDATE_S = 10  # a peer whose clock is a little behind accepts a fresh certificate; SPIRE's NotBefore cushion
_COORDINATE_BYTES = 32

_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def make_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def encode_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """``key`` as PKCS#8 DER, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def sign_authority(
    trust_domain: TrustDomain, key: ec.EllipticCurvePrivateKey, not_before: int, not_after: int
) -> x509.Certificate:
    """A self-signed signing certificate of ``trust_domain``."""
    name = _name("Hopseal embedded authority")
    return (
        _builder(name, name, key.public_key(), key.public_key(), not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(trust_domain.id)]), critical=False)
        .sign(key, hashes.SHA256())
    )


def sign_x509_svid(
    spiffe_id: SpiffeId,
    hint: str,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: int,
    ttl_s: int,
) -> X509Svid:
    """A leaf with a fresh key; it never outlives ``authority``."""
    key = make_key()
    not_before = max(now - BACKDATE_S, int(authority.not_valid_before_utc.timestamp()))
    not_after = min(now + ttl_s, int(authority.not_valid_after_utc.timestamp()))
    certificate = (
        _builder(_name(), authority.subject, key.public_key(), authority_key.public_key(), not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    return X509Svid(spiffe_id, (der,), encode_key(key), not_after, hint)


def sign_jwt_svid(
    spiffe_id: SpiffeId,
    hint: str,
    audience: tuple[str, ...],
    key: ec.EllipticCurvePrivateKey,
    kid: str,
    now: int,
    expires_at: int,
) -> JwtSvid:
    """A JWT-SVID for ``audience``, signed with ES256."""
    header = {"alg": "ES256", "kid": kid, "typ": "JWT"}
    claims = {"aud": list(audience), "exp": expires_at, "iat": now, "sub": str(spiffe_id)}
    unsigned = f"{_encode_json(header)}.{_encode_json(claims)}"
    r, s = decode_dss_signature(key.sign(unsigned.encode("ascii"), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
    return JwtSvid(spiffe_id, f"{unsigned}.{_encode(signature)}", expires_at, hint)


def jwk_set(keys: Iterable[tuple[str, ec.EllipticCurvePublicKey]], *, sequence: int, refresh_hint_s: int) -> bytes:
    """The JWKS document with the JWT authorities ``keys`` (kid, key)."""
    listed = [
        {
            "crv": "P-256",
            "kid": kid,
            "kty": "EC",
            "use": "jwt-svid",
            "x": _encode(key.public_numbers().x.to_bytes(_COORDINATE_BYTES, "big")),
            "y": _encode(key.public_numbers().y.to_bytes(_COORDINATE_BYTES, "big")),
        }
        for kid, key in keys
    ]
    document = {"keys": listed, "spiffe_refresh_hint": refresh_hint_s, "spiffe_sequence": sequence}
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    not_before: int,
    not_after: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(not_before, UTC))
        .not_valid_after(datetime.fromtimestamp(not_after, UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _name(common_name: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hopseal")]
    if common_name:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(attributes)


def _encode_json(value: Mapping[str, object]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
