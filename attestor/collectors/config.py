"""The config root: one digest over the files that decide how a component behaves.

Owns: the Merkle root and the stable read. Does not own: opening (``config_paths``).

The root is the RFC 6962 tree head over the files sorted bytewise by absolute
path. A leaf's data is the path as the process sees it in UTF-8, a zero byte and
the 32 raw bytes of the file's SHA-256; its hash is SHA-256(0x00 || data), an
inner node SHA-256(0x01 || left || right), and no files at all give SHA-256 of nothing.

Read so that the answer was true at one moment: every file is hashed and
stamped, then all paths are walked again, and only if no inode, size or time
differs between the two walks does the result count. Otherwise it is read again.

Blocking; files may lie on filesystems that do not answer.

Source: interfaces.md, "Config root"; RFC 6962 section 2.1.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from attestor.collectors.config_paths import ConfigUnreadable, Walk, check_declared, refusal_of, stamp_of
from attestor.collectors.secrets import SecretScans, bound
from attestor.digests import DigestCache, FileTooLarge, FileUnstable, Stamp
from attestor.facts import ConfigFacts, FoundSecret, Unreadable

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class ConfigLimits:
    """Caps on what is read for one set of declared paths."""

    file_bytes: int = 1 << 20
    files: int = 1024
    total_bytes: int = 1 << 24


def config_root(files: Mapping[str, str]) -> str:
    """The root, ``sha256:<hex>``, over files given as absolute path to ``sha256:<hex>``.

    Raises:
        ConfigUnreadable: a path is not absolute and canonical (``config_path_invalid``).
        ValueError: a digest is malformed.
    """
    leaves: list[bytes] = []
    for path in sorted(files, key=os.fsencode):
        check_declared(path)
        digest = files[path]
        if _DIGEST.fullmatch(digest) is None:
            msg = f"not a sha256 digest: {digest!r}"
            raise ValueError(msg)
        data = path.encode() + b"\0" + bytes.fromhex(digest.removeprefix("sha256:"))
        leaves.append(hashlib.sha256(b"\0" + data).digest())
    return f"sha256:{_tree_head(leaves).hex()}"


def measure_config(
    root_fd: int,
    paths: tuple[str, ...],
    limits: ConfigLimits,
    cache: DigestCache,
    scans: SecretScans | None = None,
) -> ConfigFacts | Unreadable:
    """The root over everything that ``paths`` declare below ``root_fd``, or why it cannot be had.

    Args:
        root_fd: ``O_PATH`` descriptor of the process's root (``/proc/PID/root``), or of ``/``.
        paths: absolute paths of files and folders.
        limits: caps on what is read.
        cache: digests of files whose inode and times are known.
        scans: finds static secrets in the files; None: they are not looked for.
    """
    for _ in range(_ATTEMPTS):
        found: set[FoundSecret] = set()

        def hash_file(path: str, fd: int) -> tuple[str, Stamp]:
            return _hash_file(path, fd, limits, cache, scans, found)  # noqa: B023 - called in this round only

        try:
            files, stamps = _hash_all(root_fd, paths, limits, hash_file)
        except FileUnstable:
            continue
        except ConfigUnreadable as refusal:
            if refusal.code == "config_unstable":
                continue
            return Unreadable(refusal.code, refusal.detail or refusal.message, refusal.remedy)
        except OSError as error:
            return Unreadable("config_unreadable", f"{', '.join(paths)}: {error.strerror}")
        if stamps == _stamp_all(root_fd, paths, limits):
            ordered = tuple(sorted(files.items(), key=lambda item: item[0].encode()))
            return ConfigFacts(config_root(files), ordered, bound(found))
    return Unreadable("config_unstable", f"{', '.join(paths)}: kept changing while being read")


def _hash_all(
    root_fd: int, paths: tuple[str, ...], limits: ConfigLimits, digest_of: Callable[[str, int], tuple[str, Stamp]]
) -> tuple[dict[str, str], list[tuple[str, Stamp]]]:
    files: dict[str, str] = {}
    stamps: list[tuple[str, Stamp]] = []
    total = 0

    def hash_file(path: str, fd: int) -> None:
        nonlocal total
        digest, stamp = digest_of(path, fd)
        total += stamp.size
        if total > limits.total_bytes:
            raise ConfigUnreadable(
                "config_too_large", f"declared files are larger than {limits.total_bytes} bytes together", detail=path
            )
        files[path] = digest
        stamps.append((path, stamp))

    walk = Walk(root_fd, limits.files, hash_file, lambda fd: stamps.append(("", stamp_of(fd))))
    for path in paths:
        walk.declared(path)
    return files, stamps


def _stamp_all(root_fd: int, paths: tuple[str, ...], limits: ConfigLimits) -> list[tuple[str, Stamp]] | None:
    """The stamps of a second walk; ``None`` if something that the first one read is no longer there."""
    stamps: list[tuple[str, Stamp]] = []
    walk = Walk(
        root_fd,
        limits.files,
        lambda path, fd: stamps.append((path, stamp_of(fd))),
        lambda fd: stamps.append(("", stamp_of(fd))),
    )
    try:
        for path in paths:
            walk.declared(path)
    except ConfigUnreadable:
        return None
    return stamps


def _hash_file(
    path: str,
    fd: int,
    limits: ConfigLimits,
    cache: DigestCache,
    scans: SecretScans | None,
    found: set[FoundSecret],
) -> tuple[str, Stamp]:
    try:
        # The descriptor names a regular file, so reopening it can neither block nor lead elsewhere.
        reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise refusal_of(error, path) from error
    try:
        digest, stamp = cache.digest(reading, limit_bytes=limits.file_bytes, now_ns=time.time_ns())
        if scans is not None:
            found.update(FoundSecret(rule, path) for rule in scans.rules_of(reading, digest))
    except FileTooLarge as error:
        raise ConfigUnreadable(
            "config_too_large",
            "a declared file is over the limit",
            detail=f"{path}: {error.detail}",
            remedy="raise limits.config_file_bytes in attestor.yaml",
        ) from error
    except OSError as error:
        raise refusal_of(error, path) from error
    else:
        return digest, stamp
    finally:
        os.close(reading)


def _tree_head(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)  # the largest power of two smaller than the count
    return hashlib.sha256(b"\1" + _tree_head(leaves[:split]) + _tree_head(leaves[split:])).digest()
