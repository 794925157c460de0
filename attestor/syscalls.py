"""System calls that Python does not wrap, each as one typed function that raises ``OSError``.

Owns: the C ABI of those calls. Does not own: any decision about what they return.
Every descriptor made here is close-on-exec.

Source: linux/openat2.h, linux/fcntl.h, linux/pidfd.h, linux/inotify.h, statfs(2), setns(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

SYS_OPENAT2: Final = 437  # the same number on every architecture

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

PIDFS_MAGIC: Final = 0x50494446
_AT_FDCWD: Final = -100
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_NLINK_INO: Final = 0x4 | 0x100
_STATX: Final = struct.Struct("=IIQIIIHHQQQQ64xIIII")  # struct statx, up to the device
_STATX_BYTES: Final = 256
_FD_PIDFS_ROOT: Final = -10002
_FILEID_KERNFS: Final = 0xFE  # handle type of pidfs: the 64-bit inode
_MAX_HANDLE_BYTES: Final = 128
_STATFS_BYTES: Final = 256  # more than struct statfs on any architecture

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE_BYTES),
    )


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
    """A descriptor of ``path`` below ``dir_fd``, resolved under the ``RESOLVE_*`` rules given.

    Raises:
        OSError: as openat2(2); ``ELOOP`` for a refused symlink, ``EXDEV`` for an escape.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _checked(
        _libc.syscall(
            ctypes.c_long(SYS_OPENAT2), ctypes.c_int(dir_fd), ctypes.c_char_p(path), how, ctypes.c_size_t(len(how))
        )
    )


def open_pidfd_by_inode(inode: int) -> int:
    """A pidfd of the process whose pidfs inode this is.

    Raises:
        OSError: ``ESTALE`` once the process is reaped or is not visible in this pid namespace;
            ``EBADF`` or ``EINVAL`` on kernels without pidfs handles.
    """
    handle = _FileHandle(handle_bytes=8, handle_type=_FILEID_KERNFS)
    struct.pack_into("=Q", handle.f_handle, 0, inode)
    try:
        return _checked(_libc.open_by_handle_at(_FD_PIDFS_ROOT, ctypes.byref(handle), os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    own = os.pidfd_open(os.getpid())  # before FD_PIDFS_ROOT existed any pidfd named the filesystem
    try:
        return _checked(_libc.open_by_handle_at(own, ctypes.byref(handle), os.O_CLOEXEC))
    finally:
        os.close(own)


def filesystem_magic(fd: int) -> int:
    """The ``f_type`` of the filesystem that ``fd`` lies on."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    _checked(_libc.fstatfs(fd, buffer))
    return int(ctypes.c_ulong.from_buffer(buffer).value) & 0xFFFFFFFF


def stat_nowait(path: bytes) -> tuple[int, int, int]:
    """Device, inode and link count of what ``path`` names, from what the kernel has cached.

    Unlike stat(2) this never asks the server of the file, which may be a process that does not answer.
    """
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    _checked(_libc.statx(_AT_FDCWD, ctypes.c_char_p(path), _AT_STATX_DONT_SYNC, _STATX_NLINK_INO, buffer))
    fields = _STATX.unpack_from(buffer)
    links, inode, major, minor = fields[3], fields[8], fields[14], fields[15]
    return os.makedev(major, minor), inode, links


def inotify_init() -> int:
    """A non-blocking inotify descriptor."""
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    """The watch descriptor for the inode at ``path``."""
    return _checked(_libc.inotify_add_watch(fd, ctypes.c_char_p(path), ctypes.c_uint32(mask)))


def inotify_rm_watch(fd: int, watch: int) -> None:
    """Remove a watch descriptor."""
    _checked(_libc.inotify_rm_watch(fd, watch))


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace of ``fd``."""
    _checked(_libc.setns(fd, kind))
