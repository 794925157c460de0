"""X.509-SVIDs: what a leaf must be, and path validation at a given time against one trust domain's bundle.

Owns: the SVID checks and the path. Does not own: which certificate a peer presented, revocation, caching.
A bundle is chosen by the trust domain of the leaf's own SAN and by nothing else: there is no function here that
takes a merged store.

Source: X509-SVID §2, §4 and §5.2; custody-wire §6.5 (a) and (b).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from hopseal.bundle import Bundle
from hopseal.errors import InvalidError
from hopseal.ids import IdentityError, SpiffeId, TrustDomain

MAX_INTERMEDIATES = 4
_LIBRARY_ERRORS = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)

Issuers = Callable[[bytes], Iterable[x509.Certificate]]  # DER of a subject name -> certificates with that subject
Extension = TypeVar("Extension", bound=x509.ExtensionType)


class SvidError(InvalidError):
    """A certificate is no X.509-SVID or does not lead to its trust domain's bundle (code ``svid_untrusted``)."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__("svid_untrusted", message, detail=detail)


@dataclass(frozen=True, slots=True)
class SvidLeaf:
    """A certificate that has the shape of an X.509-SVID leaf; its path is not validated."""

    certificate: x509.Certificate
    spiffe_id: SpiffeId
    public_key: CertificatePublicKeyTypes


@dataclass(frozen=True, slots=True)
class ValidPath:
    """Proof that a leaf leads to a bundle; holds at every time from ``valid_from`` to ``valid_until``, both included.

    NumericDate seconds; the common part of the validity of every certificate of the path, the authority too.
    """

    valid_from: int
    valid_until: int


def parse_certificate(der: bytes) -> x509.Certificate:
    """The certificate in ``der``.

    Raises:
        SvidError: it does not parse.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except _LIBRARY_ERRORS as error:
        raise SvidError("the certificate does not parse", detail=str(error)) from error


def subject_name(certificate: x509.Certificate) -> bytes:
    """DER of the subject name.

    Raises:
        SvidError: the name does not parse.
    """
    return _name(lambda: certificate.subject)


def parse_svid_leaf(der: bytes) -> SvidLeaf:
    """The leaf in ``der``.

    Raises:
        SvidError: it does not parse, has not exactly one URI SAN that is a SPIFFE ID with a path, is a CA, lacks
            ``digitalSignature``, has ``keyCertSign`` or ``cRLSign``, or restricts its use to other than clients.
    Source: X509-SVID §5.2.
    """
    certificate = parse_certificate(der)
    spiffe_id = _spiffe_id(certificate)
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise SvidError("the leaf is a CA")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise SvidError("the leaf's key usage is not that of an SVID")
    purposes = _extension(certificate, x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise SvidError("the leaf is not for clients")
    try:
        public_key = certificate.public_key()
    except _LIBRARY_ERRORS as error:
        raise SvidError("the leaf's key is of no known kind", detail=str(error)) from error
    return SvidLeaf(certificate, spiffe_id, public_key)


def verify_path(leaf: SvidLeaf, issuers: Issuers, bundles: Mapping[TrustDomain, Bundle], at: int) -> ValidPath:
    """Proof that ``leaf`` was issued by its own trust domain, valid at ``at`` (NumericDate seconds).

    Args:
        leaf: whose SAN chooses the bundle.
        issuers: where intermediates are looked up; what it returns needs no trust.
        bundles: by trust domain.
        at: time of validation.

    Raises:
        SvidError: no bundle, no path, or a certificate of the path is not valid at ``at``.
    """
    bundle = bundles.get(leaf.spiffe_id.trust_domain)
    authorities = parse_authorities(bundle.x509_authorities) if bundle else ()
    if not authorities:
        raise SvidError("no authority of the leaf's trust domain is known", detail=str(leaf.spiffe_id))
    try:
        verifier = _build_verifier(authorities, at)
        chain = verifier.verify(leaf.certificate, _climb(leaf.certificate, issuers)).chain
    except (verification.VerificationError, OverflowError, OSError, *_LIBRARY_ERRORS) as error:
        raise SvidError("the leaf does not lead to its trust domain's bundle", detail=str(error)) from error
    return ValidPath(
        max(int(certificate.not_valid_before_utc.timestamp()) for certificate in chain),
        min(int(certificate.not_valid_after_utc.timestamp()) for certificate in chain),
    )


@lru_cache(maxsize=64)
def parse_authorities(ders: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
    """The certificates in ``ders``; one that does not parse authorises nothing and is left out."""
    parsed = []
    for der in ders:
        try:
            parsed.append(x509.load_der_x509_certificate(der))
        except _LIBRARY_ERRORS:
            continue
    return tuple(parsed)


def _build_verifier(authorities: tuple[x509.Certificate, ...], at: int) -> verification.ClientVerifier:
    return (
        verification.PolicyBuilder()
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=verification.ExtensionPolicy.permit_all())
        .store(verification.Store(list(authorities)))
        .time(dt.datetime.fromtimestamp(at, dt.UTC))
        .build_client_verifier()
    )


def _climb(certificate: x509.Certificate, issuers: Issuers) -> list[x509.Certificate]:
    """Certificates that did sign the one below, so that others of the same name cannot crowd them out."""
    found: list[x509.Certificate] = []
    level = [certificate]
    while level and len(found) < MAX_INTERMEDIATES:
        above = [each for child in level for each in _signers(child, issuers) if each not in found and each != child]
        found.extend(above)
        level = above
    return found[:MAX_INTERMEDIATES]


def _signers(certificate: x509.Certificate, issuers: Issuers) -> Iterable[x509.Certificate]:
    for candidate in issuers(_name(lambda: certificate.issuer)):
        try:
            certificate.verify_directly_issued_by(candidate)
        except (InvalidSignature, *_LIBRARY_ERRORS):
            continue
        yield candidate


def _spiffe_id(certificate: x509.Certificate) -> SpiffeId:
    names = _extension(certificate, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    if len(uris) != 1:
        raise SvidError("the leaf has not exactly one URI SAN")
    try:
        return SpiffeId.parse(uris[0])
    except IdentityError as error:
        raise SvidError(error.message, detail=error.detail) from error


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except _LIBRARY_ERRORS as error:
        raise SvidError("the certificate's extensions do not parse", detail=str(error)) from error


def _name(read: Callable[[], x509.Name]) -> bytes:
    try:
        return read().public_bytes()
    except _LIBRARY_ERRORS as error:
        raise SvidError("a certificate's name does not parse", detail=str(error)) from error


def _may_sign_certificates(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    """The library's own rules want extensions that SPIRE's certificates do not have; this one is X509-SVID §4.3."""
    if usage is not None and not usage.key_cert_sign:
        message = "an issuer's key usage lacks keyCertSign"
        raise ValueError(message)


_CA_POLICY = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, verification.Criticality.AGNOSTIC, _may_sign_certificates)
)
