"""X.509-SVIDs and their paths, beyond what the custody vectors show."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from hopseal.bundle import Bundle
from hopseal.ids import TrustDomain
from hopseal.verify import (
    MAX_INTERMEDIATES,
    SvidError,
    ValidPath,
    parse_authorities,
    parse_certificate,
    parse_svid_leaf,
    subject_name,
    verify_path,
)
from vectors import pki
from vectors.pki import NOW, spiffe

PROD = TrustDomain(pki.PROD)
LEAF = parse_svid_leaf(pki.REASONER.der)


def nobody(_subject: bytes) -> list[x509.Certificate]:
    return []


def bundles(*ders: bytes) -> dict[TrustDomain, Bundle]:
    return {PROD: Bundle(PROD, ders)}


def replaced(der: bytes, old: bytes, new: bytes) -> bytes:
    assert old in der
    assert len(old) == len(new)
    return der.replace(old, new)


def test_a_leaf_tells_its_identity() -> None:
    assert str(LEAF.spiffe_id) == spiffe("reasoner")
    assert isinstance(LEAF.public_key, ec.EllipticCurvePublicKey)


def test_a_path_holds_for_what_its_certificates_have_in_common() -> None:
    path = verify_path(LEAF, nobody, bundles(pki.PROD_CA.der), NOW)
    assert path == ValidPath(pki.LEAF_FROM, pki.LEAF_UNTIL)
    longer = parse_svid_leaf(pki.svid(spiffe("reasoner"), valid_until=pki.CA_UNTIL + 9).der)
    assert verify_path(longer, nobody, bundles(pki.PROD_CA.der), NOW).valid_until == pki.CA_UNTIL


@pytest.mark.parametrize("given", [{}, {PROD: Bundle(PROD, ())}, {PROD: Bundle(PROD, (b"no certificate",))}])
def test_without_an_authority_nothing_is_trusted(given: dict[TrustDomain, Bundle]) -> None:
    with pytest.raises(SvidError, match="no authority"):
        verify_path(LEAF, nobody, given, NOW)


def test_an_authority_that_does_not_parse_takes_nothing_from_the_others() -> None:
    assert len(parse_authorities((b"no certificate", pki.PROD_CA.der))) == 1
    verify_path(LEAF, nobody, bundles(b"no certificate", pki.PROD_CA.der), NOW)


@pytest.mark.parametrize("at", [0, 2**53 - 1, 253_402_300_800])
def test_no_time_is_too_far_to_be_refused(at: int) -> None:
    with pytest.raises(SvidError):
        verify_path(LEAF, nobody, bundles(pki.PROD_CA.der), at)


def test_a_key_of_an_unknown_curve_is_refused() -> None:
    unknown = replaced(pki.REASONER.der, bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f"))
    with pytest.raises(SvidError, match="key"):
        parse_svid_leaf(unknown)


def test_a_san_of_an_unknown_kind_is_refused() -> None:
    uri = spiffe("reasoner").encode()
    edi_party_name = replaced(pki.REASONER.der, b"\x86" + bytes([len(uri)]) + uri, b"\xa5" + bytes([len(uri)]) + uri)
    with pytest.raises(SvidError, match="extensions"):
        parse_svid_leaf(edi_party_name)


def test_an_extension_that_occurs_twice_is_refused() -> None:
    with pytest.raises(SvidError, match="extensions"):
        parse_svid_leaf(replaced(pki.REASONER.der, b"\x55\x1d\x25", b"\x55\x1d\x0f"))


def test_a_name_that_does_not_parse_is_refused() -> None:
    broken = pki.REASONER.der.replace(b"SPIFFE", b"\xff\xfe\xfd\xfc\xfb\xfa")
    with pytest.raises(SvidError, match="name"):
        subject_name(parse_certificate(broken))
    with pytest.raises(SvidError):
        verify_path(parse_svid_leaf(broken), nobody, bundles(pki.PROD_CA.der), NOW)


def test_what_is_no_certificate_is_refused() -> None:
    with pytest.raises(SvidError, match="does not parse"):
        parse_certificate(b"no certificate")


def impostor(name: x509.Name, number: int) -> x509.Certificate:
    """A CA of the given name with a key of its own."""
    key = pki.key_of(f"impostor {number}")
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number + 1)
        .not_valid_before(dt.datetime.fromtimestamp(NOW - 60, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(NOW + 60, dt.UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(key, hashes.SHA256())


def test_certificates_of_the_same_name_cannot_crowd_out_the_issuer() -> None:
    middle = parse_certificate(pki.authority("prod intermediate", "prod CA").der)
    leaf = parse_svid_leaf(pki.svid(spiffe("orchestrator"), "prod intermediate").der)
    crowd = [impostor(middle.subject, number) for number in range(2 * MAX_INTERMEDIATES)]

    def issuers(subject: bytes) -> list[x509.Certificate]:
        return [*crowd, middle] if subject == middle.subject.public_bytes() else []

    path = verify_path(leaf, issuers, bundles(pki.PROD_CA.der), NOW)
    assert path.valid_until == pki.LEAF_UNTIL


def test_two_cas_that_certify_each_other_end_the_search() -> None:
    one = parse_certificate(pki.authority("cross one", "cross two").der)
    two = parse_certificate(pki.authority("cross two", "cross one").der)
    leaf = parse_svid_leaf(pki.svid(spiffe("orchestrator"), "cross one").der)
    with pytest.raises(SvidError):
        verify_path(leaf, lambda _subject: [one, two], bundles(pki.PROD_CA.der), NOW)


def test_a_ca_without_a_common_name_is_as_good() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIFFE")])
    certificate = impostor(name, 1)
    assert subject_name(certificate) == name.public_bytes()
    assert parse_authorities((certificate.public_bytes(Encoding.DER),)) == (certificate,)
