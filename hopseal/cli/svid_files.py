"""SVIDs as files, for programs that read PEM: each file replaced at once, keys readable by the owner only."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from hopseal.errors import UnavailableError
from hopseal.snapshot import IdentitySnapshot

PUBLIC_MODE, PRIVATE_MODE, FOLDER_MODE = 0o644, 0o600, 0o700


def write_snapshot(snapshot: IdentitySnapshot, folder: Path) -> None:
    """Write every SVID, key and bundle of ``snapshot`` into ``folder``.

    Raises:
        UnavailableError: a file cannot be written (code ``svid_not_written``).

    Security: no name ever refers to a partly written file, and no key file is ever readable by others.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        for number, svid in enumerate(snapshot.svids):
            key = load_der_private_key(svid.key_pkcs8, None)
            key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            replace_file(folder / f"svid.{number}.key", key_pem, PRIVATE_MODE)
            replace_file(folder / f"svid.{number}.pem", _certificates(svid.chain_der), PUBLIC_MODE)
        for number, bundle in enumerate(snapshot.bundles):
            replace_file(folder / f"bundle.{number}.pem", _certificates(bundle.x509_authorities), PUBLIC_MODE)
    except OSError as error:
        raise UnavailableError(
            "svid_not_written", f"cannot write to {folder}: {error.strerror}", remedy="name a folder you may write to"
        ) from error


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Make ``path`` hold ``data`` with ``mode``: readers see the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _certificates(chain_der: tuple[bytes, ...]) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain_der)
