"""SHA-256 of open files, stable and cached.

Owns: reading a file once and saying that it did not change meanwhile. Does not
own: which file is opened, or how (``attestor.collectors``).

The cache is keyed by inode and the times that the kernel sets, and is not used
where those prove nothing: on filesystems that a process serves itself, and for
files changed so recently that a second change could carry the same time.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from attestor import syscalls
from hopseal.errors import UnavailableError

_CHUNK_BYTES: Final = 1 << 18
_FUSE_MAGIC: Final = 0x65735546  # statfs(2): FUSE, and virtiofs
_RACY_NS: Final = 2_000_000_000  # coarser than the timestamps of every filesystem in use
_DEFAULT_ENTRIES: Final = 8192


class FileUnstable(UnavailableError):  # noqa: N818 - the names of states read better without a suffix
    """A file changed while it was read (code ``file_unstable``)."""

    def __init__(self, detail: str) -> None:
        super().__init__("file_unstable", "a file changed while it was read", detail=detail)


class FileTooLarge(UnavailableError):  # noqa: N818
    """A file is over the configured cap (code ``file_too_large``)."""

    def __init__(self, detail: str) -> None:
        super().__init__("file_too_large", "a file is larger than the configured limit", detail=detail)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file's content or identity does."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp in an ``fstat`` answer."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class DigestCache:
    """A bounded, thread-safe map from stamp to ``sha256:<hex>``."""

    def __init__(self, entries: int = _DEFAULT_ENTRIES) -> None:
        self._entries = entries
        self._digests: OrderedDict[Stamp, str] = OrderedDict()
        self._lock = threading.Lock()

    def digest(self, fd: int, *, limit_bytes: int, now_ns: int) -> tuple[str, Stamp]:
        """``sha256:<hex>`` of the whole file that ``fd`` can read, and its stamp.

        Args:
            fd: of a regular file, open for reading.
            limit_bytes: largest file that is hashed.
            now_ns: the wall clock; decides only whether the answer may be cached.

        Raises:
            FileTooLarge: the file is over the limit.
            FileUnstable: it changed during the read, or its size is not what reading it gives.
            OSError: it cannot be read.
        """
        stamp = Stamp.of(os.fstat(fd))
        if stamp.size > limit_bytes:
            raise FileTooLarge(f"{stamp.size} bytes, limit {limit_bytes}")
        with self._lock:
            known = self._digests.get(stamp)
            if known is not None:
                self._digests.move_to_end(stamp)
        if known is not None:
            return known, stamp
        value = _hash_stable(fd, stamp)
        if _times_prove_content(fd, stamp, now_ns):
            self._remember(stamp, value)
        return value, stamp

    def _remember(self, stamp: Stamp, value: str) -> None:
        with self._lock:
            self._digests[stamp] = value
            while len(self._digests) > self._entries:
                self._digests.popitem(last=False)


def _hash_stable(fd: int, before: Stamp) -> str:
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(fd, _CHUNK_BYTES, offset):
        digest.update(chunk)
        offset += len(chunk)
        if offset > before.size:
            break
    if offset != before.size or Stamp.of(os.fstat(fd)) != before:
        raise FileUnstable(f"inode {before.ino}: read {offset} of {before.size} bytes")
    return f"sha256:{digest.hexdigest()}"


def _times_prove_content(fd: int, stamp: Stamp, now_ns: int) -> bool:
    return stamp.ctime_ns + _RACY_NS < now_ns and syscalls.filesystem_magic(fd) != _FUSE_MAGIC
