"""Private keys of logs and witnesses, behind the verifier keys that belong to them.

Owns: pairing a key with a name and an algorithm. Does not own: files (``hopseal.witness.keys``).
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from hopseal.log.note import COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44, ED25519, VerifierKey, is_key_name
from hopseal.log.refusals import Reason, TransparencyError

PrivateKey = Ed25519PrivateKey | MLDSA44PrivateKey


@dataclass(frozen=True, slots=True)
class KeySigner:
    """Signs with a private key; made by the functions below."""

    key: VerifierKey
    private: PrivateKey

    def sign(self, message: bytes) -> bytes:
        """The raw signature over ``message``."""
        return self.private.sign(message)


def log_signer(origin: str, private: Ed25519PrivateKey) -> KeySigner:
    """A log's key: plain Ed25519 signatures, under its origin as name."""
    return _signer(origin, ED25519, private)


def witness_signer(name: str, private: PrivateKey) -> KeySigner:
    """A witness's key: timestamped cosignatures of the type that fits the key."""
    algorithm = COSIGNATURE_ED25519 if isinstance(private, Ed25519PrivateKey) else COSIGNATURE_ML_DSA_44
    return _signer(name, algorithm, private)


def _signer(name: str, algorithm: int, private: PrivateKey) -> KeySigner:
    if not is_key_name(name):
        raise TransparencyError(Reason.VKEY, f"{name!r} cannot be a key's name")
    return KeySigner(VerifierKey(name, algorithm, private.public_key().public_bytes_raw()), private)
