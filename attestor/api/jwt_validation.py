"""Checking JWT-SVIDs; pure, the clock arrives as an argument.

Steps, each tagged in place: 1 form and bounds, 2 header, 3 claims, 4 trust domain and key, 5 signature,
6 time, 7 audience.

Source: JWT-SVID §§2 to 5; RFC 7515, RFC 7518 §3.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hopseal.bundle import BundleSet
from hopseal.errors import InvalidError
from hopseal.ids import SpiffeId

MAX_TOKEN_BYTES = 16_384
MAX_JWKS_BYTES = 1 << 20
NOT_BEFORE_SKEW_S = 30  # an issuer's clock may be this far ahead of ours; ``exp`` gets no such allowance
MAX_NUMERIC_DATE = 1 << 53  # what a JSON number carries exactly; infinities and NaN are no dates either
MIN_RSA_BITS = 2048  # RFC 7518 §3.3

_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_CURVES: Mapping[str, tuple[str, type[ec.EllipticCurve], int]] = {
    "ES256": ("P-256", ec.SECP256R1, 32),
    "ES384": ("P-384", ec.SECP384R1, 48),
    "ES512": ("P-521", ec.SECP521R1, 66),
}
_ALGORITHMS = frozenset(f"{kind}{bits}" for kind in ("ES", "RS", "PS") for bits in _HASHES)

Verify: TypeAlias = Callable[[bytes, bytes], None]


class JwtSvidInvalidError(InvalidError):
    """A token is no valid JWT-SVID for this audience now (code ``jwt_svid_invalid``)."""

    def __init__(self, message: str) -> None:
        super().__init__("jwt_svid_invalid", message)


@dataclass(frozen=True, slots=True)
class ValidatedJwt:
    """A JWT-SVID after every step; ``claims`` are all of its claims."""

    spiffe_id: SpiffeId
    claims: Mapping[str, Any]


def verify_jwt_svid(token: str, audience: str, bundles: BundleSet, now: float) -> ValidatedJwt:
    """The subject and claims of ``token``.

    Args:
        token: compact serialization, unchecked.
        audience: of the party that asks; one of the token's.
        bundles: whose JWT authorities may have signed it.
        now: NumericDate seconds.

    Raises:
        JwtSvidInvalidError: any step fails.
    """
    header, claims, signed, signature = _split(token)  # 1
    algorithm, kid = _check_header(header)  # 2
    spiffe_id, expires_at, audiences = _check_claims(claims)  # 3
    bundle = bundles.get(spiffe_id.trust_domain)  # 4
    if bundle is None:
        raise JwtSvidInvalidError(f"no bundle for trust domain {spiffe_id.trust_domain.name}")
    verify = _find_key(bundle.jwt_keys, kid, algorithm)
    try:
        verify(signature, signed)  # 5
    except InvalidSignature as error:
        raise JwtSvidInvalidError("the signature is not valid") from error
    if now >= expires_at:  # 6
        raise JwtSvidInvalidError("the token has expired")
    not_before = _number_claim(claims, "nbf")
    if not_before is not None and not_before > now + NOT_BEFORE_SKEW_S:
        raise JwtSvidInvalidError("the token is not valid yet")
    if audience not in audiences:  # 7
        raise JwtSvidInvalidError(f"the token is not for audience {audience!r}")
    return ValidatedJwt(spiffe_id, claims)


def _split(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any], bytes, bytes]:
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise JwtSvidInvalidError("the token is too long or not ASCII")
    parts = token.split(".")
    if len(parts) != 3:  # JWS compact serialization, RFC 7515 §7.1
        raise JwtSvidInvalidError("the token has not three parts")
    header, claims, signature = parts
    return (
        _load_object(_decode(header)),
        _load_object(_decode(claims)),
        f"{header}.{claims}".encode(),
        _decode(signature),
    )


def _check_header(header: Mapping[str, Any]) -> tuple[str, str]:
    algorithm = header.get("alg")
    if algorithm not in _ALGORITHMS:
        raise JwtSvidInvalidError(f"algorithm {algorithm!r} is not allowed")
    if header.get("typ", "JWT") not in {"JWT", "JOSE"}:
        raise JwtSvidInvalidError("typ must be JWT or JOSE")
    if "crit" in header:
        raise JwtSvidInvalidError("critical header extensions are not supported")
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise JwtSvidInvalidError("kid is missing")
    return algorithm, kid


def _check_claims(claims: Mapping[str, Any]) -> tuple[SpiffeId, float, list[str]]:
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise JwtSvidInvalidError("sub is missing")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except InvalidError as error:
        raise JwtSvidInvalidError("sub is no SPIFFE ID") from error
    expires_at = _number_claim(claims, "exp")
    if expires_at is None:
        raise JwtSvidInvalidError("exp is missing")
    audiences = claims.get("aud")
    if isinstance(audiences, str):
        audiences = [audiences]
    if not isinstance(audiences, list) or not audiences or not all(isinstance(each, str) for each in audiences):
        raise JwtSvidInvalidError("aud is missing")
    return spiffe_id, expires_at, audiences


def _find_key(jwks: bytes, kid: str, algorithm: str) -> Verify:
    """How the key ``kid`` checks ``algorithm``; the key's own type decides, never the token alone."""
    if len(jwks) > MAX_JWKS_BYTES:
        raise JwtSvidInvalidError("the bundle is too large")
    keys = _load_object(jwks).get("keys") if jwks else []
    found = [key for key in keys if isinstance(key, dict) and key.get("kid") == kid] if isinstance(keys, list) else []
    if len(found) != 1:
        raise JwtSvidInvalidError("the key is not in the bundle")
    try:
        if algorithm in _CURVES:
            return _elliptic(found[0], algorithm)
        return _rsa(found[0], algorithm)
    except (KeyError, TypeError, ValueError) as error:
        raise JwtSvidInvalidError("the key cannot be used with this algorithm") from error


def _elliptic(key: Mapping[str, Any], algorithm: str) -> Verify:
    name, curve, size = _CURVES[algorithm]
    if (key["kty"], key["crv"]) != ("EC", name):
        raise JwtSvidInvalidError("the key is not of this algorithm")
    public = ec.EllipticCurvePublicNumbers(_number(key["x"]), _number(key["y"]), curve()).public_key()
    scheme = ec.ECDSA(_HASHES[algorithm[2:]])

    def verify(signature: bytes, signed: bytes) -> None:
        if len(signature) != 2 * size:
            raise InvalidSignature
        r, s = (int.from_bytes(half, "big") for half in (signature[:size], signature[size:]))
        public.verify(encode_dss_signature(r, s), signed, scheme)

    return verify


def _rsa(key: Mapping[str, Any], algorithm: str) -> Verify:
    if key["kty"] != "RSA":
        raise JwtSvidInvalidError("the key is not of this algorithm")
    public = rsa.RSAPublicNumbers(_number(key["e"]), _number(key["n"])).public_key()
    if public.key_size < MIN_RSA_BITS:
        raise JwtSvidInvalidError("the key is too short")
    digest = _HASHES[algorithm[2:]]

    def verify(signature: bytes, signed: bytes) -> None:
        if algorithm.startswith("RS"):
            public.verify(signature, signed, padding.PKCS1v15(), digest)
        else:  # RFC 7518 §3.5: the salt is as long as the hash
            public.verify(signature, signed, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)

    return verify


def _load_object(text: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise JwtSvidInvalidError("malformed JSON") from error
    if not isinstance(value, dict):
        raise JwtSvidInvalidError("malformed JSON")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # two parsers may read two things from it
        raise ValueError("duplicate member")
    return found


def _number(text: str) -> int:
    return int.from_bytes(_decode(text), "big")


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise JwtSvidInvalidError("malformed base64url") from error
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != text:
        raise JwtSvidInvalidError("malformed base64url")
    return data


def _number_claim(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < MAX_NUMERIC_DATE:
        raise JwtSvidInvalidError(f"{name} is no date")
    return value
