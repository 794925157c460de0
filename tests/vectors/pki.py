"""Keys and certificates of the vectors: all from fixed seeds, so that the same bytes come out every time."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = 1_795_348_800  # NumericDate of every case unless it says otherwise
LEAF_FROM, LEAF_UNTIL = NOW - 300, NOW + 300
CA_FROM, CA_UNTIL = NOW - 43_200, NOW + 43_200
PROD, PARTNER = "prod.example.org", "partner.example.net"


@dataclass(frozen=True)
class Party:
    """A key with a certificate over it."""

    der: bytes
    key: ec.EllipticCurvePrivateKey

    @property
    def x5t_raw(self) -> bytes:
        return hashlib.sha256(self.der).digest()


@cache
def key_of(seed: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 key out of a name; the order of the curve is above 2^255."""
    secret = int.from_bytes(hashlib.sha256(seed.encode()).digest()) >> 1
    return ec.derive_private_key(secret, ec.SECP256R1())


def spiffe(component: str, trust_domain: str = PROD) -> str:
    return f"spiffe://{trust_domain}/agents/crm-assistant/{component}"


def _moment(at: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(at, dt.UTC)


def _name(common_name: str) -> x509.Name:
    """SPIRE's shape: country and organisation, here with a common name to tell issuers apart."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIFFE"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def usage(*, signature: bool = False, certificates: bool = False, crls: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=crls,
        encipher_only=False,
        decipher_only=False,
    )


def _serial(seed: str) -> int:
    return int.from_bytes(hashlib.sha256(b"serial " + seed.encode()).digest()[:15]) + 1


@cache
def authority(
    seed: str,
    issuer: str | None = None,
    *,
    valid_from: int = CA_FROM,
    valid_until: int = CA_UNTIL,
    key_usage: x509.KeyUsage | None = None,
    ca: bool = True,
) -> Party:
    """A CA; self-signed unless ``issuer`` names another."""
    key = key_of(seed)
    signer = key_of(issuer or seed)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(seed))
        .issuer_name(_name(issuer or seed))
        .public_key(key.public_key())
        .serial_number(_serial(f"{seed} {issuer} {valid_from} {valid_until} {ca}"))
        .not_valid_before(_moment(valid_from))
        .not_valid_after(_moment(valid_until))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(key_usage or usage(certificates=True, crls=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    certificate = builder.sign(signer, hashes.SHA256(), ecdsa_deterministic=True)
    return Party(certificate.public_bytes(Encoding.DER), key)


SIGNATURE_ONLY = usage(signature=True)
CLIENT_AND_SERVER = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def svid(
    uris: str | tuple[str, ...],
    issuer: str = "prod CA",
    *,
    seed: str | None = None,
    valid_from: int = LEAF_FROM,
    valid_until: int = LEAF_UNTIL,
    key_usage: x509.KeyUsage | None = SIGNATURE_ONLY,
    ca: bool = False,
    purposes: tuple[x509.ObjectIdentifier, ...] = CLIENT_AND_SERVER,
    public_key: CertificatePublicKeyTypes | None = None,
    extra: x509.ExtensionType | None = None,
) -> Party:
    """A leaf as SPIRE makes it, or deliberately not."""
    names = (uris,) if isinstance(uris, str) else uris
    key = key_of(seed or names[0])
    serial = _serial(f"{names} {issuer} {seed} {valid_from} {valid_until} {key_usage} {ca} {purposes}")
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(list(_name("x"))[:2]))
        .issuer_name(_name(issuer))
        .public_key(public_key or key.public_key())
        .serial_number(serial)
        .not_valid_before(_moment(valid_from))
        .not_valid_after(_moment(valid_until))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if names:
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in names])
        builder = builder.add_extension(san, critical=False)
    if extra is not None:
        builder = builder.add_extension(extra, critical=True)
    certificate = builder.sign(key_of(issuer), hashes.SHA256(), ecdsa_deterministic=True)
    return Party(certificate.public_bytes(Encoding.DER), key)


PROD_CA = authority("prod CA")
PARTNER_CA = authority("partner CA")
ORCHESTRATOR = svid(spiffe("orchestrator"))
REASONER = svid(spiffe("reasoner"))
CONNECTOR = svid(spiffe("crm-connector"))
CONNECTOR_BEFORE = svid(spiffe("crm-connector"), seed="connector before rotation")
SHELL = svid(spiffe("shell"))
GATEWAY = svid(spiffe("gateway", PARTNER), "partner CA")
