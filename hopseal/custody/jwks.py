"""Keys of token issuers: JSON Web Key sets, and signatures checked with a closed list of algorithms.

Owns: which keys of a set can be used, which algorithms each allows, choosing a key, checking a signature.
Does not own: claims (``usertoken``), fetching sets. The algorithm comes from the key: a token can only choose among
what its key allows, never ``none`` and never a MAC.
Source: RFC 7517 §4 and §5, RFC 7518 §3 and §6, RFC 8037 §2, RFC 8725 §3.1 and §3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from hopseal.custody.encoding import decode_b64url
from hopseal.custody.errors import CustodyError
from hopseal.custody.members import Members, text_up_to
from hopseal.errors import InvalidError
from hopseal.limits import MAX_ISSUER_KEYS, MAX_KEY_ID_BYTES

Verifier = Callable[[bytes, bytes], None]  # signing input, signature; raises InvalidSignature

_read_key_id = text_up_to(MAX_KEY_ID_BYTES, min_bytes=1)
_COORDINATE_BYTES = 32
_MIN_RSA_BITS, _MAX_RSA_BITS = 2_048, 4_096
_MIN_RSA_EXPONENT, _MAX_RSA_EXPONENT = 65_537, 2**32 - 1


class KeySetError(InvalidError):
    """A key set that nothing can be verified with (code ``jwks_invalid``)."""

    def __init__(self, message: str) -> None:
        super().__init__("jwks_invalid", message, remedy="publish the issuer's RFC 7517 key set")


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """One key that signatures may be checked with.

    Args:
        kid: its name in the set; None if it has none.
        verifiers: by JWA name, one for each algorithm that it allows.
    """

    kid: str | None
    verifiers: Mapping[str, Verifier]

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether this key allows ``algorithm`` and made ``signature`` with it."""
        verify = self.verifiers.get(algorithm)
        if verify is None:
            return False
        try:
            verify(signing_input, signature)
        except InvalidSignature:
            return False
        return True


def parse_key_set(value: object) -> tuple[IssuerKey, ...]:
    """The usable keys of a JSON Web Key set; keys of other kinds or for other uses are left out.

    Raises:
        KeySetError: not a key set, too many keys, none that can be used, or two with one name.
    """
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or len(keys) > MAX_ISSUER_KEYS:
        raise KeySetError(f"it is no key set of at most {MAX_ISSUER_KEYS} keys")
    usable = tuple(key for key in map(_parse_key, keys) if key is not None)
    if not usable:
        raise KeySetError("no key in it can be used: ES256, RS256, PS256 or EdDSA are needed")
    names = [key.kid for key in usable]
    if len(set(names)) != len(names):
        raise KeySetError("two of its keys have the same kid, or none")
    return usable


def choose_key(keys: tuple[IssuerKey, ...], kid: str | None) -> IssuerKey | None:
    """The key that a token names; a token that names none means the only one."""
    if kid is None:
        return keys[0] if len(keys) == 1 else None
    return next((key for key in keys if key.kid == kid), None)


def _parse_key(value: object) -> IssuerKey | None:
    if not isinstance(value, dict) or value.get("use", "sig") != "sig":
        return None
    try:
        kid = Members(value, "key").optional("kid", _read_key_id)
        found = _KINDS[str(value.get("kty"))](value)
    except (KeyError, ValueError, CustodyError):
        return None
    allowed = {name: verify for name, verify in found.items() if value.get("alg", name) == name}
    return IssuerKey(kid, allowed) if allowed else None


def _parse_ec(value: Mapping[str, object]) -> Mapping[str, Verifier]:
    x, y = _octets(value, "x"), _octets(value, "y")
    if value.get("crv") != "P-256" or not len(x) == len(y) == _COORDINATE_BYTES:
        return {}
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1())
    key = numbers.public_key()

    def verify(signing_input: bytes, signature: bytes) -> None:
        if len(signature) != 2 * _COORDINATE_BYTES:
            raise InvalidSignature
        r, s = int.from_bytes(signature[:_COORDINATE_BYTES]), int.from_bytes(signature[_COORDINATE_BYTES:])
        key.verify(utils.encode_dss_signature(r, s), signing_input, ec.ECDSA(hashes.SHA256()))

    return {"ES256": verify}


def _parse_rsa(value: Mapping[str, object]) -> Mapping[str, Verifier]:
    n, e = int.from_bytes(_octets(value, "n")), int.from_bytes(_octets(value, "e"))
    if not _MIN_RSA_BITS <= n.bit_length() <= _MAX_RSA_BITS or not _MIN_RSA_EXPONENT <= e <= _MAX_RSA_EXPONENT:
        return {}
    key = rsa.RSAPublicNumbers(e, n).public_key()
    digest = hashes.SHA256()
    pss = padding.PSS(padding.MGF1(digest), salt_length=digest.digest_size)
    return {
        "RS256": lambda signing_input, signature: key.verify(signature, signing_input, padding.PKCS1v15(), digest),
        "PS256": lambda signing_input, signature: key.verify(signature, signing_input, pss, digest),
    }


def _parse_okp(value: Mapping[str, object]) -> Mapping[str, Verifier]:
    if value.get("crv") != "Ed25519":
        return {}
    key = ed25519.Ed25519PublicKey.from_public_bytes(_octets(value, "x"))

    def verify(signing_input: bytes, signature: bytes) -> None:
        key.verify(signature, signing_input)

    return {"EdDSA": verify, "Ed25519": verify}


def _octets(value: Mapping[str, object], name: str) -> bytes:
    text = value.get(name)
    return decode_b64url(text) if isinstance(text, str) else b""


_KINDS: Mapping[str, Callable[[Mapping[str, object]], Mapping[str, Verifier]]] = {
    "EC": _parse_ec,
    "RSA": _parse_rsa,
    "OKP": _parse_okp,
}
