"""The embedded authority: what it signs, when it rotates, what it keeps on disk."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from apifakes import TRUST_DOMAIN, spiffe_id
from attestor.upstream.embedded import signing, store
from attestor.upstream.embedded.authority import create_authorities, decide_rotation
from attestor.upstream.embedded.store import AuthorityStore
from attestor.upstream.settings import EmbeddedSettings
from hopseal.errors import InvalidError, UnavailableError
from hopseal.ids import TrustDomain

NOW = 1_800_000_000
CA_TTL = 1200
OTHER = TrustDomain.parse("other.example")


@pytest.fixture
def authorities():
    return create_authorities(TRUST_DOMAIN, NOW, CA_TTL)


class TestSigning:
    @pytest.fixture
    def svid(self, authorities):
        signer = authorities.signer(NOW)
        return signing.sign_x509_svid(spiffe_id("/a/b"), "hint", signer.certificate, signer.key, NOW, 60)

    def test_a_leaf_is_an_x509_svid(self, svid, authorities):
        leaf = x509.load_der_x509_certificate(svid.chain_der[0])
        extensions = leaf.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.UniformResourceIdentifier("spiffe://example.org/a/b")]
        basic = extensions.get_extension_for_class(x509.BasicConstraints)
        assert basic.critical
        assert not basic.value.ca
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert usage.value.digital_signature
        assert not any((usage.value.key_cert_sign, usage.value.crl_sign, usage.value.key_encipherment))
        assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        }
        key_id = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        authority = authorities.authorities[0].certificate
        assert key_id == authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        leaf.verify_directly_issued_by(authority)

    def test_key_expiry_and_hint_belong_to_the_leaf(self, svid):
        leaf = x509.load_der_x509_certificate(svid.chain_der[0])
        key = load_der_private_key(svid.key_pkcs8, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.public_key() == leaf.public_key()
        assert (svid.expires_at, svid.hint) == (NOW + 60, "hint")
        assert int(leaf.not_valid_after_utc.timestamp()) == NOW + 60
        assert int(leaf.not_valid_before_utc.timestamp()) == NOW - signing.BACKDATE_S

    def test_the_key_is_not_in_a_repr(self, svid, authorities):
        assert "key" not in repr(svid)
        assert "PrivateKey" not in repr(authorities)

    def test_an_authority_is_a_signing_certificate_of_its_trust_domain(self, authorities):
        certificate = authorities.authorities[0].certificate
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.UniformResourceIdentifier("spiffe://example.org")]
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.key_cert_sign
        assert not usage.digital_signature

    def test_a_leaf_never_outlives_its_authority(self, authorities):
        signer = authorities.signer(NOW)
        svid = signing.sign_x509_svid(spiffe_id("/a"), "", signer.certificate, signer.key, NOW, 10 * CA_TTL)
        assert svid.expires_at == NOW + CA_TTL

    def test_serials_and_keys_differ(self, authorities):
        signer = authorities.signer(NOW)
        first, second = (
            signing.sign_x509_svid(spiffe_id("/a"), "", signer.certificate, signer.key, NOW, 60) for _ in range(2)
        )
        assert first.key_pkcs8 != second.key_pkcs8
        assert first.chain_der != second.chain_der

    def test_another_library_accepts_the_jwt_svid_with_the_bundle(self, authorities):
        signer = authorities.signer(NOW)
        token = signing.sign_jwt_svid(spiffe_id("/a"), "", ("x", "y"), signer.jwt_key, signer.kid, NOW, NOW + 30)
        jwks = jwt.PyJWKSet.from_json(authorities.bundle(300).jwt_keys.decode())
        key = jwks[jwt.get_unverified_header(token.token)["kid"]]
        claims = jwt.decode(
            token.token, key, ["ES256"], audience="y", options={"verify_exp": False, "verify_iat": False}
        )
        assert claims == {"sub": "spiffe://example.org/a", "aud": ["x", "y"], "iat": NOW, "exp": NOW + 30}

    def test_the_bundle_says_its_sequence_and_refresh_hint(self, authorities):
        bundle = authorities.bundle(77)
        document = json.loads(bundle.jwt_keys)
        assert (document["spiffe_sequence"], document["spiffe_refresh_hint"], bundle.sequence) == (1, 77, 1)
        assert [key["use"] for key in document["keys"]] == ["jwt-svid"]


class TestRotation:
    def test_nothing_is_due_before_half_life(self, authorities):
        assert decide_rotation(authorities, NOW + CA_TTL // 2 - 1, CA_TTL) is None

    def test_at_half_life_the_next_is_published_and_signs_later(self, authorities):
        prepared = NOW + CA_TTL // 2
        following = decide_rotation(authorities, prepared, CA_TTL)
        old, new = following.authorities
        assert following.sequence == 2
        assert old == authorities.authorities[0]
        active = prepared + CA_TTL // 6
        assert following.signer(active - 1) == old
        assert following.signer(active) == new

    def test_the_old_one_stays_until_it_expires(self, authorities):
        following = decide_rotation(authorities, NOW + CA_TTL // 2, CA_TTL)
        assert decide_rotation(following, NOW + CA_TTL - 1, CA_TTL) is None
        later = decide_rotation(following, NOW + CA_TTL, CA_TTL)
        assert authorities.authorities[0] not in later.authorities
        assert len(later.bundle(1).x509_authorities) == len(later.authorities)

    def test_over_many_lives_there_is_always_a_signer_and_the_bundle_stays_small(self, authorities):
        present = authorities
        for now in range(NOW, NOW + 10 * CA_TTL, 10):
            present = decide_rotation(present, now, CA_TTL) or present
            assert present.signer(now) is not None
            assert present.signer(now).not_after - now >= CA_TTL / 3 - 10
            assert len(present.authorities) <= 3

    @pytest.mark.parametrize("jump", [-3600, -86400, 3600, 86400])
    def test_a_clock_that_jumps_finds_a_signer_at_once(self, authorities, jump):
        following = decide_rotation(authorities, NOW + jump, CA_TTL)
        signer = following.signer(NOW + jump)
        assert signer is not None
        assert signer.is_valid(NOW + jump)

    def test_a_clock_that_comes_back_keeps_the_first_authority(self, authorities):
        away = decide_rotation(authorities, NOW - 3600, CA_TTL)
        assert authorities.authorities[0] in away.authorities
        assert away.signer(NOW) is not None


@pytest.mark.parametrize(
    ("x509", "jwt_ttl", "ca", "fits"),
    [(600, 300, 1800, True), (600, 300, 1799, False), (300, 600, 1799, False), (0, 300, 1800, False)],
)
def test_authority_lifetimes_must_leave_room_for_what_was_signed_last(x509, jwt_ttl, ca, fits):
    if fits:
        EmbeddedSettings(Path("/x"), x509, jwt_ttl, ca)
    else:
        with pytest.raises(InvalidError) as caught:
            EmbeddedSettings(Path("/x"), x509, jwt_ttl, ca)
        assert caught.value.code == "upstream_settings_invalid"


class TestStore:
    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "state"

    def open_store(self, folder, trust_domain=TRUST_DOMAIN, now=NOW):
        authority_store = AuthorityStore(folder, trust_domain, CA_TTL)
        return authority_store, authority_store.open(now)

    def test_state_is_private_and_survives(self, folder):
        os.umask(0)
        try:
            _, first = self.open_store(folder)
        finally:
            os.umask(0o022)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "authority.json").stat().st_mode & 0o777 == 0o600
        _, again = self.open_store(folder)
        assert again == first
        assert again.authorities[0].key.private_numbers() == first.authorities[0].key.private_numbers()

    def test_another_trust_domain_is_refused(self, folder):
        self.open_store(folder)
        with pytest.raises(InvalidError) as caught:
            self.open_store(folder, OTHER)
        assert caught.value.code == "authority_trust_domain_mismatch"

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
    def test_keys_that_others_can_read_are_refused(self, folder, mode):
        self.open_store(folder)
        (folder / "authority.json").chmod(mode)
        with pytest.raises(InvalidError) as caught:
            self.open_store(folder)
        assert caught.value.code == "authority_state_exposed"

    def test_a_folder_that_others_can_enter_is_refused(self, folder):
        folder.mkdir(mode=0o755)
        with pytest.raises(InvalidError) as caught:
            self.open_store(folder)
        assert caught.value.code == "authority_state_exposed"

    def test_a_symlink_is_not_followed(self, folder, tmp_path):
        self.open_store(folder)
        (folder / "authority.json").rename(tmp_path / "elsewhere")
        (folder / "authority.json").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UnavailableError):
            self.open_store(folder)

    @pytest.mark.parametrize("change", ["cut", "version", "key", "empty", "list", "domain"])
    def test_malformed_state_is_refused_and_never_replaced(self, folder, change):
        self.open_store(folder)
        file = folder / "authority.json"
        document = json.loads(file.read_text())
        if change == "cut":
            text = file.read_text()[:-20]
        elif change == "empty":
            text = ""
        elif change == "list":
            text = "[]"
        else:
            if change == "version":
                document["version"] = 2
            elif change == "domain":
                document["trust_domain"] = "Not A Domain"
            else:
                document["authorities"][0]["key"] = "AAAA"
            text = json.dumps(document)
        file.write_text(text)
        with pytest.raises(InvalidError) as caught:
            self.open_store(folder)
        assert caught.value.code == "authority_state_malformed"
        assert file.read_text() == text

    def test_state_that_vanished_is_not_made_anew(self, folder):
        authority_store, _ = self.open_store(folder)
        (folder / "authority.json").unlink()
        with pytest.raises(UnavailableError) as caught:
            authority_store.refresh(NOW + 1)
        assert caught.value.code == "authority_state_unavailable"

    def test_of_two_stores_one_rotates_and_the_other_follows(self, folder):
        first, _ = self.open_store(folder)
        second, _ = self.open_store(folder)
        due = NOW + CA_TTL // 2
        rotated = first.refresh(due)
        assert rotated.sequence == 2
        assert second.refresh(due) == rotated

    def test_many_at_once_make_one_rotation(self, folder):
        stores = [self.open_store(folder)[0] for _ in range(8)]
        found = []
        start = threading.Barrier(len(stores))

        def refresh(authority_store):
            start.wait()
            found.append(authority_store.refresh(NOW + CA_TTL // 2))

        threads = [threading.Thread(target=refresh, args=(each,)) for each in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == len(stores)
        assert {each.sequence for each in found} == {2}
        assert len({each.authorities[1].kid for each in found}) == 1

    def test_a_held_lock_is_reported_in_time(self, folder, monkeypatch):
        first, _ = self.open_store(folder)
        monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0.05)
        with first._locked(), pytest.raises(UnavailableError) as caught:
            AuthorityStore(folder, TRUST_DOMAIN, CA_TTL).open(NOW)
        assert caught.value.code == "authority_locked"

    def test_a_write_that_fails_leaves_the_old_state(self, folder, monkeypatch):
        authority_store, first = self.open_store(folder)

        def full(_descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UnavailableError):
            authority_store.refresh(NOW + CA_TTL // 2)
        monkeypatch.undo()
        assert sorted(path.name for path in folder.iterdir()) == ["authority.json", "authority.lock"]
        assert authority_store.refresh(NOW + 1) == first

    def test_rotation_leaks_no_descriptor(self, folder):
        authority_store, _ = self.open_store(folder)
        before = len(os.listdir("/proc/self/fd"))
        for turn in range(20):
            authority_store.refresh(NOW + turn * CA_TTL)
        assert len(os.listdir("/proc/self/fd")) <= before


def test_equal_sets_are_equal_without_comparing_keys(authorities):
    assert replace(authorities, sequence=1) == authorities
