"""User tokens and key sets of the vectors: made without the codec, the same bytes each time."""

from __future__ import annotations

from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import ABSENT, Json, b64u, dumps, sha

TTS = "https://tts.prod.example.org"
AS = "https://as.prod.example.org"
AUDIENCE = "prod.example.org"
SALT = bytes(range(32))
# Made for these vectors only; RSA keys cannot be derived from a seed as simply as the others.
RSA_PEM = b"""\
-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDHYiD0GKPzue7g
BMQdFT9Qz4GuTN2W0RTnO/b95lx/IypEJpIW1pqdxU9JVSf9lKMxWlHxieRiCj72
xUG7eWnnvK9GK3v9xAoDRKK0emJ4z1v7xjqFd26NlwBUx4fTUXlp1Brb7IBX+rnO
RDRhVKXCYm4m196JbbTEcdqw7cPq8pzsDngIjBItPYOxeHWmfk6uhMsX5rfCblwb
noCIckDoNWLdsE0Sb2N3VE1f9CbVHPvQa+EASWyGJQClndFuIp5Q/lyJn9GHDLB3
NYMeMTJH5y1bMxSdSLU/TePtsm8bAj6m+ulRCc7JLygAPo9QQ89a1+5GEaHtbvVd
loznUZMPAgMBAAECggEACE40JTbpjXuPUdGhAb0i2BDsy//zsxaekktTLJxt+fXT
Cue4ai8iXbQca2eatNt+OM4UX8VouBTJLqpk5JRYLwkTHA8vqRCDgkNXq8D1XSb2
I/TL90dUWZ2Sq/Vr2Qep0Ri+za56Yi/VkZwRuoQ2K3TCNegEIyFoyE4d2ATvhlfm
EcVP9VgW9aHuilOTBBnVVCd/TDgTXOP5scO7lNBQpi6i6KCHrOpGmAtnBZBJM1g2
C+Wdn11iPtoWvjGE4Cgr+qyjXFgEyiEvvje/416saLL4lWudd3xQkwxVD5GIZvd4
nf4XnaLJ3m55lUWBEiFUdauEnmzbSFBeXX/Sq8yacQKBgQDnBf1upZoAf4YVjhj7
auoXLznGKJU3GOs8rRFJvb5r8uPUEY0tBWTmGSgwxSmRBWDkoink/WDltu4M/VcZ
bYjhNbFAFX0EF1q+BrbMZssHHorDG8mQJXCw4Eg/UoafAFDfljiGAdAb8O9nVprx
h+p5BOWszDVgdIDKjkKUdGFwXQKBgQDc8HCF2vhqyfPNwya2dyOOJQGNfqmAMkuN
67LI1rcSDTQyyBBXndS1ygLwcNiUWILCNlqZFTGEuW2Qy1KfFtH9WwJG7zljpYXi
vc+5PLEFJgsWYMbVAnXszNa/DzTRXsiqglh2Fux552hy2tyZINU/7Iw0KmPg9s5o
hlrkyscKWwKBgE860qu7x5EcKxQBY7f19sp0u8+l42a9+Q8aG6+6jy/eYRw92Ljz
/KKdRhdTxumhepVuuAd8jlq53fI+gDyMQEFcdKmRtQpOKCS7kL2RE1ghtV0sjngN
HxTKFn0BBIJLTXEgx8nNnV23x6MdJI5pGpTehRY6AqRN0E2ndFYNg81RAoGAHTHY
bJemw9Wz1bi34NyVYi8ZqWzXUQ1UVoiSs19MCaKdByjQoANHHE55XPRMai3X+Xnd
NuVKCdPG2p9DZ6pITUY9Ysoxty0kJ/YVANE4Qwnn5SkcnQEaPBRFPDHyNMhlk8Jt
lg0pamJdtu+cvs9L3oqPbEU9tXhnhgBa+mihLIkCgYEAt5SahC8M/HON49oobKGx
xtv1YQnPk/8+dd1ou0DoHIVQlV9E/z/caa+ADvEJ/jRV6EJmp5f7UzRr00WX4105
Cxwtv7TwAS+ycOp/a3CmhCZF/A0zKWETfE4gPo8B8zJkw6z2yO7nn7e8esZC1Kb4
XSAIymGjwgzoUNY+N5EDB24=
-----END PRIVATE KEY-----
"""


def ec_key(seed: str = "tts") -> ec.EllipticCurvePrivateKey:
    return pki.key_of(f"issuer {seed}")


def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(sha(b"issuer ed"))


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    key = load_pem_private_key(RSA_PEM, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def jwk(kid: str | None, key: Any, **members: Any) -> Json:
    made: Json = {} if kid is None else {"kid": kid}
    public = key.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        numbers = public.public_numbers()
        made |= {"kty": "EC", "crv": "P-256", "x": b64u(numbers.x.to_bytes(32)), "y": b64u(numbers.y.to_bytes(32))}
    elif isinstance(public, rsa.RSAPublicKey):
        made |= {"kty": "RSA", "n": b64u(public.public_numbers().n.to_bytes(256)), "e": "AQAB"}
    else:
        made |= {"kty": "OKP", "crv": "Ed25519", "x": b64u(public.public_bytes(Encoding.Raw, PublicFormat.Raw))}
    return made | members


def key_set() -> Json:
    return {"keys": [jwk("es", ec_key()), jwk("rs", rsa_key()), jwk("ed", ed_key())]}


def issuer(**changes: Any) -> Json:
    return {"issuer": TTS, "type": "txn", "audience": [AUDIENCE], "jwks": key_set()} | changes


ISSUERS = [issuer(), issuer(issuer=AS, type="at", audience=["https://crm.prod.example.org"])]


def sign(alg: str, key: Any, signing_input: bytes) -> bytes:
    """The signature; ``alg`` may be one that no verifier here takes."""
    if alg == "ES256":
        der = key.sign(signing_input, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = utils.decode_dss_signature(der)
        return r.to_bytes(32) + s.to_bytes(32)
    if alg == "RS256":
        return key.sign(signing_input, padding.PKCS1v15(), hashes.SHA256())
    if alg == "PS256":
        return _sign_pss(key, signing_input)
    return key.sign(signing_input) if alg in {"EdDSA", "Ed25519"} else b""


def _sign_pss(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    """RSASSA-PSS with a fixed salt, as RFC 8017 §9.1.1 writes it; libraries draw the salt at random."""
    size = 256
    digest = sha(b"\x00" * 8 + sha(message) + SALT)
    block = b"\x00" * (size - 32 - 32 - 2) + b"\x01" + SALT
    mask = b"".join(sha(digest + counter.to_bytes(4)) for counter in range((len(block) + 31) // 32))[: len(block)]
    masked = bytearray(a ^ b for a, b in zip(block, mask, strict=True))
    masked[0] &= 0x7F
    numbers = key.private_numbers()
    encoded = int.from_bytes(bytes(masked) + digest + b"\xbc")
    return pow(encoded, numbers.d, numbers.public_numbers.n).to_bytes(size)


def txn_claims(**changes: Any) -> Json:
    """Of a Transaction Token that was issued to the orchestrator."""
    claims = {
        "iss": TTS,
        "aud": AUDIENCE,
        "sub": "u-4711",
        "txn": "t-1",
        "iat": NOW - 5,
        "exp": NOW + 295,
        "scope": "crm.read crm.write",
        "req_wl": spiffe("orchestrator"),
        "tctx": {"amount": 12.5, "nested": {"a": [1, {"b": None}]}},
    }
    return _changed(claims, changes)


def at_claims(**changes: Any) -> Json:
    """Of an access token that was issued to the orchestrator."""
    claims = {
        "iss": AS,
        "aud": ["https://crm.prod.example.org", "https://other.example"],
        "sub": "u-4711",
        "jti": "j-1",
        "iat": NOW - 5,
        "exp": NOW + 295,
        "scope": "crm.read",
        "client_id": spiffe("orchestrator"),
    }
    return _changed(claims, changes)


def token(claims: Json | bytes, *, alg: str = "ES256", kid: str | None = "es", key: Any = None, **header: Any) -> str:
    """A JWT over ``claims``."""
    keys = {"es": ec_key(), "rs": rsa_key(), "ed": ed_key()}
    typ = "at+jwt" if isinstance(claims, dict) and claims.get("iss") == AS else "txntoken+jwt"
    head = _changed({"typ": typ, "alg": alg, "kid": kid if kid is not None else ABSENT}, header)
    payload = claims if isinstance(claims, bytes) else dumps(claims)
    signing_input = f"{b64u(dumps(head))}.{b64u(payload)}"
    return f"{signing_input}.{b64u(sign(alg, key or keys[kid or 'es'], signing_input.encode()))}"


def obo(text: str, claims: Json, **changes: Any) -> Json:
    """What a root says about a token."""
    said = {
        "iss": claims["iss"],
        "sub": claims["sub"],
        "typ": "at" if claims["iss"] == AS else "txn",
        "th": b64u(sha(text.encode())),
        "exp": claims["exp"],
    }
    if "txn" in claims:
        said["txn"] = claims["txn"]
    return _changed(said, changes)


def _changed(members: Json, changes: Json) -> Json:
    return {name: value for name, value in (members | changes).items() if value is not ABSENT}
