"""The embedded authority's keys on disk.

Owns: one file, its permissions, and the lock under which it changes. Does not own: when it changes
(``authority.decide_rotation``).

Attestors of one host may share the folder. Whoever first takes the lock when a rotation is due makes it;
the others read what was written. The file is replaced as a whole, so that a reader sees the old set or
the new one. All calls block; callers are in a thread.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestor.upstream.embedded import signing
from attestor.upstream.embedded.authority import Authority, AuthoritySet, create_authorities, decide_rotation
from hopseal.errors import HopsealError, InvalidError, UnavailableError
from hopseal.ids import TrustDomain

FORMAT_VERSION = 1
MAX_STATE_BYTES = 1 << 20
LOCK_TIMEOUT_S = 2.0
_LOCK_POLL_S = 0.01
_EXPOSED = stat.S_IRWXG | stat.S_IRWXO


class AuthorityStore:
    """The state folder of one trust domain; nothing is touched until :meth:`open`."""

    def __init__(self, folder: Path, trust_domain: TrustDomain, ca_ttl_s: int) -> None:
        self._folder = folder
        self._file = folder / "authority.json"
        self._lock = folder / "authority.lock"
        self._trust_domain = trust_domain
        self._ca_ttl_s = ca_ttl_s
        self._read: tuple[tuple[int, ...], AuthoritySet] | None = None

    def open(self, now: int) -> AuthoritySet:
        """The stored set, made now if there is none.

        Raises:
            InvalidError: the state is another trust domain's, exposed, or malformed.
            UnavailableError: it cannot be read, written or locked.
        """
        with _boundary(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(self._folder.lstat(), self._folder, stat.S_ISDIR)
            with self._locked():
                if not self._file.exists():
                    return self._write(create_authorities(self._trust_domain, now, self._ca_ttl_s))
                return self._rotated(now)

    def refresh(self, now: int) -> AuthoritySet:
        """The set as it is on disk now, rotated by this call if that was due.

        Raises:
            InvalidError: the file was replaced by something else.
            UnavailableError: it cannot be read, written or locked, or it is gone.
        """
        with _boundary(self._folder):
            present = self._load()
            if decide_rotation(present, now, self._ca_ttl_s) is None:
                return present
            with self._locked():
                return self._rotated(now)

    def _rotated(self, now: int) -> AuthoritySet:
        present = self._load()
        following = decide_rotation(present, now, self._ca_ttl_s)
        return present if following is None else self._write(following)

    def _load(self) -> AuthoritySet:
        descriptor = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._read is not None and self._read[0] == version:
                return self._read[1]
            _check_private(status, self._file, stat.S_ISREG)
            loaded = _parse(file.read(MAX_STATE_BYTES), self._trust_domain, self._file)
        self._read = version, loaded
        return loaded

    def _write(self, authorities: AuthoritySet) -> AuthoritySet:
        temporary = self._folder / f".authority.{os.getpid()}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_render(authorities))
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self._file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return authorities

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not _try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        "authority_locked", "the authority's state is locked", detail=f"{self._lock} is held"
                    )
                time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _boundary(folder: Path) -> Iterator[None]:
    try:
        yield
    except HopsealError:
        raise
    except OSError as error:
        raise UnavailableError(
            "authority_state_unavailable",
            "the authority's state cannot be read or written",
            detail=f"{folder}: {error}",
            remedy="check the folder, its owner and the free space; the last good state stays in use until it expires",
        ) from error


def _check_private(status: os.stat_result, path: Path, is_kind: Callable[[int], bool]) -> None:
    if not is_kind(status.st_mode):
        raise InvalidError(
            "authority_state_malformed", "the authority's state is not a plain file in a folder", detail=str(path)
        )
    if status.st_uid != os.geteuid() or status.st_mode & _EXPOSED:
        raise InvalidError(
            "authority_state_exposed",
            "others can read the authority's keys",
            detail=f"{path}: owner {status.st_uid}, mode {stat.filemode(status.st_mode)}",
            remedy="give it to the attestor's user and take every permission from group and others; "
            "if anyone may have read it, delete the folder and start anew",
        )


def _render(authorities: AuthoritySet) -> bytes:
    document = {
        "version": FORMAT_VERSION,
        "trust_domain": authorities.trust_domain.name,
        "sequence": authorities.sequence,
        "authorities": [
            {
                "certificate": _encode(each.certificate.public_bytes(serialization.Encoding.DER)),
                "key": _encode(signing.encode_key(each.key)),
                "jwt_key": _encode(signing.encode_key(each.jwt_key)),
                "kid": each.kid,
                "active_at": each.active_at,
            }
            for each in authorities.authorities
        ],
    }
    return json.dumps(document, indent=1).encode("ascii")


def _parse(text: bytes, trust_domain: TrustDomain, path: Path) -> AuthoritySet:
    try:
        document = json.loads(text)
        _check_version(document["version"])
        stored = TrustDomain.parse(document["trust_domain"])
        authorities = tuple(_parse_authority(each) for each in document["authorities"])
        sequence = int(document["sequence"])
    except (ValueError, KeyError, TypeError, InvalidError) as error:
        raise InvalidError(
            "authority_state_malformed",
            "the authority's state cannot be understood",
            detail=f"{path}: {type(error).__name__}: {error}",
            remedy="restore the file, or delete the folder to start a new authority that nobody trusts yet",
        ) from error
    if stored != trust_domain:
        raise InvalidError(
            "authority_trust_domain_mismatch",
            "the authority's state belongs to another trust domain",
            detail=f"{path} was made for {stored.name}, the configuration says {trust_domain.name}",
            remedy="correct trust_domain, or name another state_dir",
        )
    return AuthoritySet(stored, sequence, authorities)


def _check_version(version: object) -> None:
    if version != FORMAT_VERSION:
        raise ValueError(f"format version {version!r}")


def _parse_authority(item: dict[str, Any]) -> Authority:
    return Authority(
        certificate=x509.load_der_x509_certificate(_decode(item["certificate"])),
        key=_load_key(item["key"]),
        jwt_key=_load_key(item["jwt_key"]),
        kid=str(item["kid"]),
        active_at=int(item["active_at"]),
    )


def _load_key(text: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_der_private_key(_decode(text), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic curve key")
    return key


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
