"""The witness's own keys, as files that only the witness may read.

Owns: making, keeping and reading them. Does not own: when they may be made (``state``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.signers import KeySigner, PrivateKey, witness_signer
from hopseal.witness.files import write_durably

ED25519: Final = "ed25519"
ML_DSA_44: Final = "ml-dsa-44"
ALGORITHMS: Final = (ED25519, ML_DSA_44)

_MAKERS: MappingProxyType[str, Callable[[], PrivateKey]] = MappingProxyType(
    {ED25519: Ed25519PrivateKey.generate, ML_DSA_44: MLDSA44PrivateKey.generate}
)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MAX_KEY_BYTES = 16_384


def key_path(folder: Path, algorithm: str) -> Path:
    """Where the key of that algorithm is kept."""
    return folder / f"{algorithm}.key"


def has_keys(folder: Path) -> bool:
    """Whether a key is there, of whatever algorithm."""
    return any(key_path(folder, algorithm).exists() for algorithm in ALGORITHMS)


def make_keys(folder: Path, algorithms: Sequence[str]) -> None:
    """Make a key of each algorithm that has none yet.

    Raises:
        UnavailableError: the folder cannot be written (``witness_key_unwritable``), or this installation has no such
            algorithm (``witness_algorithm_unavailable``).
    """
    for algorithm in algorithms:
        path = key_path(folder, algorithm)
        if path.exists():
            continue
        try:
            private = _MAKERS[algorithm]()
            write_durably(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        except UnsupportedAlgorithm as error:
            raise UnavailableError(
                "witness_algorithm_unavailable",
                f"this installation of cryptography has no {algorithm}",
                remedy="leave it out of `algorithms`, or install the wheel of cryptography",
            ) from error
        except OSError as error:
            raise UnavailableError(
                "witness_key_unwritable", f"{path}: {error.strerror}", remedy="make the folder the witness's own"
            ) from error


def load_signers(folder: Path, name: str) -> tuple[KeySigner, ...]:
    """Every key that is there, ready to cosign under ``name``.

    Raises:
        InvalidError: a file is no such key (``witness_key_malformed``), or others may use it (``witness_key_exposed``).
        UnavailableError: there is none (``witness_key_missing``), or one cannot be read (``witness_key_unreadable``).
    """
    found = tuple(
        witness_signer(name, _load(key_path(folder, algorithm), algorithm))
        for algorithm in ALGORITHMS
        if key_path(folder, algorithm).exists()
    )
    if not found:
        raise UnavailableError(
            "witness_key_missing", f"{folder} has no key", remedy="make them with `hopseal audit witness init`"
        )
    return found


def _load(path: Path, algorithm: str) -> PrivateKey:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise UnavailableError(
            "witness_key_unreadable", f"{path}: {error.strerror}", remedy="run as the user that owns it"
        ) from error
    if mode & _OTHERS:
        raise InvalidError(
            "witness_key_exposed",
            f"{path} may be used by others than its owner (mode {mode:04o})",
            remedy=f"chmod 600 {path}; if others did read it, make a new witness",
        )
    try:
        private = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _malformed(path) from error
    if isinstance(private, Ed25519PrivateKey if algorithm == ED25519 else MLDSA44PrivateKey):
        return private
    raise _malformed(path)


def _malformed(path: Path) -> InvalidError:
    return InvalidError(
        "witness_key_malformed",
        f"{path} is no unencrypted private key of the algorithm that its name says",
        remedy="put the right file back; never move a key between algorithms",
    )
