"""The key that signs this node's checkpoints, in one file that nobody else may read.

Owns: making it at the first start, and refusing a file that others could have read.
Does not own: what is signed (``hopseal.log.log_key``), announcing it (``announcement``).
Source: C2SP signed-note, type 0x01.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from broker.audit.tile_store import sync_folder
from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.note import ED25519, VerifierKey

KEY_NAME = "log.key"
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LogSigner:
    """A log's private key behind its verifier key.

    Args:
        key: named like the log's origin.
        private: not shown in ``repr``.
    """

    key: VerifierKey
    private: Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature."""
        return self.private.sign(message)


def load_log_signer(path: Path, origin: str) -> LogSigner:
    """The key at ``path``, which is made if nothing is there.

    Raises:
        InvalidError: others may read it or it is not this user's (``log_key_exposed``), or it is no Ed25519 key in
            PEM (``log_key_invalid``).
        UnavailableError: it cannot be read or made (``log_key_unavailable``).
    """
    try:
        try:
            data = _read(path)
        except FileNotFoundError:
            _create(path)
            data = _read(path)
    except OSError as error:
        raise UnavailableError(
            "log_key_unavailable", f"{path}: {error.strerror}", remedy="let the broker's user write to the state folder"
        ) from error
    return _parse(data, path, origin)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in {os.geteuid(), 0}:
            raise InvalidError(
                "log_key_exposed",
                f"{path} is not a file of this user alone",
                detail=f"mode {stat.S_IMODE(found.st_mode):04o}, uid {found.st_uid}",
                remedy="if nobody can have copied it, chmod 600 it; else see docs/audit-log.md, The key",
            )
        return os.read(descriptor, _MAX_BYTES)
    finally:
        os.close(descriptor)


def _create(path: Path) -> None:
    """Make a key: the name appears with the whole key behind it, or not at all."""
    private = Ed25519PrivateKey.generate()
    data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        # A link does not replace: of two that are made at once, one is the key.
        try:
            path.hardlink_to(unfinished)
        except FileExistsError:
            return
        sync_folder(path.parent)
    finally:
        unfinished.unlink()


def _parse(data: bytes, path: Path, origin: str) -> LogSigner:
    try:
        private = load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise _invalid(path, str(error)) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _invalid(path, type(private).__name__)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return LogSigner(VerifierKey(origin, ED25519, public), private)


def _invalid(path: Path, detail: str) -> InvalidError:
    return InvalidError(
        "log_key_invalid",
        f"{path} is no Ed25519 key in PEM",
        detail=detail,
        remedy="restore it from where you keep it; without it the log cannot go on under its name",
    )
