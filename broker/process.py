"""The broker's own process and the processes it names.

Owns: hardening of this process, the boot id, and the inode of a peer's pidfd.
Does not own: anything about a process beyond that number; only the attestor looks further.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import socket
from dataclasses import dataclass
from pathlib import Path

from hopseal.errors import UnavailableError

_AT_EMPTY_PATH = 0x1000  # linux/fcntl.h
_FILE_HANDLE_BYTES = 8  # struct file_handle without its handle: two ints, the first of which says 0 bytes follow
_SO_PEERPIDFD = 77  # asm-generic/socket.h, Linux 6.5
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Listener:
    """Who called ``listen`` on a socket; ``pidfd_inode`` is 0 when that process has exited."""

    pidfd_inode: int


def harden(*, unsafe_dumpable: bool = False) -> None:
    """Keep the keys in this process's memory out of core dumps and away from other processes of its user.

    Args:
        unsafe_dumpable: leave this process readable for its own user, see :func:`is_attestor_same_user`.

    Raises:
        UnavailableError: the kernel refused (``hardening_failed``).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if not unsafe_dumpable and libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise UnavailableError(
            "hardening_failed", "the process could not be made undumpable", detail=os.strerror(ctypes.get_errno())
        )


def is_attestor_same_user(broker_socket: Path) -> bool:
    """Whether the attestor runs as this unprivileged user, by who owns its socket, or the folder before it is there.

    Such an attestor can read this process only while it is dumpable. Nothing is lost by that: whoever could
    read our memory then is the same user, and could read the attestor's as well.
    """
    if os.geteuid() == 0:
        return False
    for path in (broker_socket, broker_socket.parent):
        try:
            return path.lstat().st_uid == os.geteuid()
        except OSError:
            continue
    return False


def read_boot_id() -> bytes:
    """The 16 bytes that name this boot of the machine.

    Raises:
        UnavailableError: the kernel shows none (``boot_id_unreadable``).
    """
    try:
        return bytes.fromhex(_BOOT_ID.read_text("ascii").strip().replace("-", ""))
    except (OSError, ValueError) as error:
        raise UnavailableError(
            "boot_id_unreadable", "the kernel's boot id cannot be read", detail=str(error)
        ) from error


def check_pidfd_support() -> None:
    """Make sure that this kernel names processes by pidfd inode.

    Raises:
        UnavailableError: it is too old, or has no pidfs (``kernel_too_old``).
    """
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with left, right:
            pin_listener(left)
        pidfd = os.pidfd_open(os.getpid())
    except OSError as error:
        raise _too_old(str(error)) from error
    anonymous = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        # Without pidfs every pidfd shares the one anonymous inode with every eventfd, and it names nobody.
        if os.fstat(pidfd).st_dev == os.fstat(anonymous).st_dev:
            raise _too_old("pidfds have no inode of their own")
        if not _has_handle(pidfd):
            raise _too_old("pidfds cannot be opened by their inode")
    finally:
        os.close(pidfd)
        os.close(anonymous)


def _has_handle(fd: int) -> bool:
    """Whether name_to_handle_at(2) names what ``fd`` is; with room for none it says how much that would take."""
    handle, mount_id = ctypes.create_string_buffer(_FILE_HANDLE_BYTES), ctypes.c_int()
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.name_to_handle_at(fd, b"", handle, ctypes.byref(mount_id), _AT_EMPTY_PATH)
    return result == -1 and ctypes.get_errno() == errno.EOVERFLOW


def probe_listener(path: str) -> Listener | None:
    """Who listens on the Unix socket at ``path``; None if nobody answers there now. Never blocks."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(path)
            return pin_listener(sock)
        except OSError:
            return None


def pin_listener(sock: socket.socket) -> Listener:
    """The process behind a connected Unix socket.

    Raises:
        OSError: the kernel does not tell.
    """
    try:
        pidfd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        # Kernels before 6.14 refuse once the process was reaped, later ones hand out a pidfd that polls readable.
        if error.errno in {errno.EINVAL, errno.ESRCH, errno.ENODATA}:
            return Listener(0)
        raise
    try:
        # Poll first: an inode read from a dead pidfd would name a process that is no more.
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return Listener(0 if poll.poll(0) else os.fstat(pidfd).st_ino)
    finally:
        os.close(pidfd)


def _too_old(detail: str) -> UnavailableError:
    return UnavailableError(
        "kernel_too_old",
        "this kernel does not name a socket's peer by pidfd inode",
        detail=detail,
        remedy="run Linux 6.14 or later",
    )
