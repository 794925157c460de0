"""JWT-SVIDs are checked step by step; PyJWT makes the tokens."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from apifakes import TRUST_DOMAIN
from attestor.api.jwt_validation import MAX_TOKEN_BYTES, NOT_BEFORE_SKEW_S, JwtSvidInvalidError, verify_jwt_svid
from hopseal.bundle import Bundle, BundleSet
from hopseal.ids import TrustDomain

NOW = 1_800_000_000
SUBJECT = "spiffe://example.org/agents/crm/orchestrator"
CLAIMS = {"sub": SUBJECT, "aud": ["me", "other"], "exp": NOW + 60, "iat": NOW}
FEDERATED = TrustDomain.parse("partner.example")

KEYS: dict[str, Any] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "RS256": rsa.generate_private_key(65537, 2048),
    "weak": rsa.generate_private_key(65537, 1024),
    "stranger": ec.generate_private_key(ec.SECP256R1()),
}
KEYS |= dict.fromkeys(("RS384", "RS512", "PS256", "PS384", "PS512"), KEYS["RS256"])


def jwk(name: str, kid: str | None = None) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(KEYS[name], rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return kind.to_jwk(KEYS[name].public_key(), as_dict=True) | {"kid": kid or name}


def bundles(*keys: dict[str, Any], federated: tuple[dict[str, Any], ...] = ()) -> BundleSet:
    return BundleSet(
        Bundle(TRUST_DOMAIN, (), json.dumps({"keys": list(keys)}).encode()),
        (Bundle(FEDERATED, (), json.dumps({"keys": list(federated)}).encode()),),
    )


ALL = bundles(*(jwk(name) for name in KEYS if name != "stranger"))


def token(claims: dict[str, Any] | None = None, *, alg: str = "ES256", key: str | None = None, **header: Any) -> str:
    headers = {"kid": key or alg, **header}
    return jwt.encode(CLAIMS if claims is None else claims, KEYS[key or alg], alg, headers=headers)


def forged(header: dict[str, Any] | str, claims: dict[str, Any] | str, signature: bytes = b"\0" * 64) -> str:
    def encode(value: dict[str, Any] | str) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()

    return ".".join((encode(header), encode(claims), base64.urlsafe_b64encode(signature).rstrip(b"=").decode()))


def refused(text: str, *, audience: str = "me", now: float = NOW, known: BundleSet = ALL) -> str:
    with pytest.raises(JwtSvidInvalidError) as caught:
        verify_jwt_svid(text, audience, known, now)
    assert caught.value.code == "jwt_svid_invalid"
    return caught.value.message


@pytest.mark.parametrize("alg", ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_every_algorithm_of_the_standard_is_accepted_with_its_own_key(alg):
    valid = verify_jwt_svid(token(alg=alg), "me", ALL, NOW)
    assert str(valid.spiffe_id) == SUBJECT
    assert valid.claims == CLAIMS


def test_a_single_audience_may_be_text():
    assert verify_jwt_svid(token(CLAIMS | {"aud": "me"}), "me", ALL, NOW).claims["aud"] == "me"


@pytest.mark.parametrize("typ", ["JWT", "JOSE"])
def test_both_types_are_accepted(typ):
    verify_jwt_svid(token(typ=typ), "me", ALL, NOW)


def test_a_token_is_good_up_to_its_last_second():
    verify_jwt_svid(token(), "me", ALL, NOW + 59.9)
    assert "expired" in refused(token(), now=NOW + 60)


def test_a_token_is_good_from_its_first_second_less_the_skew():
    late = token(CLAIMS | {"nbf": NOW + NOT_BEFORE_SKEW_S})
    verify_jwt_svid(late, "me", ALL, NOW)
    assert "not valid yet" in refused(late, now=NOW - 1)


def test_another_audience_is_refused():
    assert "audience" in refused(token(), audience="them")
    assert "audience" in refused(token(), audience="m")


@pytest.mark.parametrize("missing", ["sub", "aud", "exp"])
def test_claims_that_must_be_there(missing):
    assert missing in refused(token({key: value for key, value in CLAIMS.items() if key != missing}))


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "nobody"},
        {"sub": "spiffe://example.org"},
        {"sub": "spiffe://example.org/a\n"},
        {"sub": 5},
        {"aud": []},
        {"aud": [5]},
        {"aud": {"me": 1}},
        {"exp": "soon"},
        {"exp": True},
        {"exp": None},
        {"exp": 1e300},
        {"nbf": "now"},
    ],
)
def test_claims_of_the_wrong_kind_are_refused(claims):
    text = f"{forged({'alg': 'ES256', 'kid': 'ES256'}, CLAIMS | claims).rsplit('.', 1)[0]}"
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(text.encode(), KEYS["ES256"])
    refused(f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")


def test_no_signature_no_identity():
    unsigned = jwt.encode(CLAIMS, None, "none", headers={"kid": "ES256"})
    assert "algorithm" in refused(unsigned)
    assert "algorithm" in refused(forged({"alg": "None", "kid": "ES256"}, CLAIMS, b""))


def test_a_public_key_is_no_shared_secret():
    unsigned = forged({"alg": "HS256", "kid": "ES256"}, CLAIMS).rsplit(".", 1)[0]
    secret = json.dumps(jwk("ES256")).encode()
    tag = hmac.digest(secret, unsigned.encode(), "sha256")
    assert "algorithm" in refused(f"{unsigned}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}")


@pytest.mark.parametrize(
    ("alg", "kid"), [("ES256", "ES384"), ("ES256", "RS256"), ("RS256", "ES256"), ("ES384", "ES256")]
)
def test_the_key_decides_the_algorithm(alg, kid):
    refused(jwt.encode(CLAIMS, KEYS[alg], alg, headers={"kid": kid}))


def test_a_stranger_with_a_known_key_id_is_refused():
    assert "signature" in refused(jwt.encode(CLAIMS, KEYS["stranger"], "ES256", headers={"kid": "ES256"}))


def test_an_unknown_or_missing_key_id_is_refused():
    assert "not in the bundle" in refused(token(key="stranger"))
    assert "kid" in refused(jwt.encode(CLAIMS, KEYS["ES256"], "ES256"))
    assert "kid" in refused(forged({"alg": "ES256", "kid": ""}, CLAIMS))


def test_a_key_id_that_stands_twice_is_nobodys():
    twice = bundles(jwk("ES256"), jwk("stranger", "ES256"))
    refused(token(), known=twice)


def test_short_rsa_keys_are_refused():
    unsigned = forged({"alg": "RS256", "kid": "weak"}, CLAIMS).rsplit(".", 1)[0]
    signature = KEYS["weak"].sign(unsigned.encode(), padding.PKCS1v15(), hashes.SHA256())
    assert "too short" in refused(f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")


def test_only_the_subjects_own_trust_domain_signs_for_it():
    known = bundles(jwk("ES256"), federated=(jwk("stranger"),))
    assert "not in the bundle" in refused(token(key="stranger"), known=known)
    theirs = token(CLAIMS | {"sub": "spiffe://partner.example/a"}, key="stranger", alg="ES256")
    assert str(verify_jwt_svid(theirs, "me", known, NOW).spiffe_id) == "spiffe://partner.example/a"
    assert "no bundle" in refused(token(CLAIMS | {"sub": "spiffe://nowhere.example/a"}), known=known)


def test_critical_extensions_and_other_types_are_refused():
    refused(forged({"alg": "ES256", "kid": "ES256", "crit": ["b64"], "b64": False}, CLAIMS))
    refused(token(typ="at+jwt"))


def test_duplicate_members_are_refused():
    refused(forged('{"alg":"ES256","kid":"ES256","kid":"x"}', CLAIMS))
    refused(forged({"alg": "ES256", "kid": "ES256"}, '{"sub":"a","sub":"b"}'))


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b", "a.b.c.d", "é.a.b", " ", "a.b.c=", "Zg=.Zg.Zg", "Zh.Zg.Zg", "x" * (MAX_TOKEN_BYTES + 1)],
)
def test_text_that_is_no_token_is_refused(text):
    refused(text)


def test_every_changed_byte_is_refused():
    text = token()
    for position in range(len(text)):
        for replacement in "A", "_", ".":
            changed = text[:position] + replacement + text[position + 1 :]
            if changed != text:
                refused(changed)


def test_deeply_nested_json_is_refused():
    refused(forged("[" * 5000, CLAIMS))


@given(st.text(max_size=300))
def test_any_text_is_a_token_or_our_error(text):
    refused(text)


@given(
    st.dictionaries(
        st.sampled_from(["sub", "aud", "exp", "nbf", "iat"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
            lambda each: st.lists(each, max_size=3),
        ),
    ),
    st.binary(max_size=80),
)
def test_any_claims_and_signature_are_our_error(claims, signature):
    refused(forged({"alg": "ES256", "kid": "ES256"}, claims, signature))


@given(st.binary(max_size=400))
def test_any_bundle_bytes_are_our_error(data):
    refused(token(), known=BundleSet(Bundle(TRUST_DOMAIN, (), data)))
