"""A certificate authority for tests: SVIDs as an upstream would issue them."""

from __future__ import annotations

import datetime as dt
import itertools

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from hopseal.bundle import Bundle, BundleSet
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.svid import X509Svid

_SERIALS = itertools.count(1)


class Authority:
    """Issues SVIDs of one trust domain."""

    def __init__(self, trust_domain: str = "example.org") -> None:
        self.trust_domain = TrustDomain.parse(trust_domain)
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, f"{trust_domain} {next(_SERIALS)}")])
        now = dt.datetime.now(dt.UTC)
        self.certificate = (
            x509.CertificateBuilder(name, name, self._key.public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(self.trust_domain.id)]), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.der = self.certificate.public_bytes(Encoding.DER)

    @property
    def bundles(self) -> BundleSet:
        return BundleSet(Bundle(self.trust_domain, (self.der,)))

    def issue(
        self,
        spiffe_id: str,
        *,
        ttl_s: int = 600,
        names: tuple[str, ...] | None = None,
        curve: ec.EllipticCurve | None = None,
    ) -> X509Svid:
        """An SVID; ``names`` replaces its URI names."""
        key = ec.generate_private_key(curve or ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        uris = [x509.UniformResourceIdentifier(name) for name in names or (spiffe_id,)]
        leaf = (
            x509.CertificateBuilder(
                self.certificate.subject, x509.Name([]), key.public_key(), x509.random_serial_number()
            )
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(seconds=ttl_s))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName(uris), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return X509Svid(
            SpiffeId.parse(spiffe_id),
            (leaf.public_bytes(Encoding.DER),),
            key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            int(leaf.not_valid_after_utc.timestamp()),
        )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
