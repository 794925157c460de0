"""What the kernel can do, tried rather than read off its version; and the clock."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hopseal.cli.diagnosis.finding import Finding, failed, ok, reason_of, warning

SO_PEERPIDFD: Final = 77  # asm-generic/socket.h, Linux 6.5
_SYS_OPENAT2: Final = 437
_AT_FDCWD, _RESOLVE_IN_ROOT, _AT_EMPTY_PATH = -100, 0x10, 0x1000
_HANDLE_BYTES: Final = 128
_STA_UNSYNC: Final = 0x0040  # adjtimex(2)
_TIMEX_BYTES, _TIMEX_MAXERROR_AT, _TIMEX_STATUS_AT = 208, 24, 40
MIN_WATCHES: Final = 8192
_CGROUP = Path("/sys/fs/cgroup")
_WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")

_libc = ctypes.CDLL(None, use_errno=True)


def check_kernel() -> Iterator[Finding]:
    """One finding for each thing that the daemons need of the kernel."""
    yield _peer_pidfd()
    yield _pidfd_inode()
    yield _pidfd_handle()
    yield _openat2()
    yield _cgroup()
    yield _watches()


def check_clock() -> Iterator[Finding]:
    """Whether the clock is kept by somebody: SVIDs live for minutes."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    if _libc.adjtimex(timex) < 0:
        yield warning(
            "clock.synchronised", "the kernel does not say whether the clock is kept", _errno(), "chronyc tracking"
        )
        return
    (status,) = struct.unpack_from("=i", timex, _TIMEX_STATUS_AT)
    (max_error_us,) = struct.unpack_from("=q", timex, _TIMEX_MAXERROR_AT)
    evidence = f"adjtimex status {status:#06x}, at most {max_error_us / 1e6:.3f} s off"
    if status & _STA_UNSYNC:
        yield warning(
            "clock.synchronised",
            "nothing keeps this clock, and peers refuse SVIDs and custody records of a clock that is off",
            evidence,
            "timedatectl set-ntp true",
        )
    else:
        yield ok("clock.synchronised", "the clock is kept", evidence)


def _peer_pidfd() -> Finding:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
        except OSError as error:
            return warning(
                "kernel.peer_pidfd",
                "callers are pinned by pid and start time, which is weaker",
                f"SO_PEERPIDFD: {reason_of(error)}, Linux {platform.release()}",
                "run Linux 6.5 or newer",
            )
    return ok("kernel.peer_pidfd", "callers are pinned by a pidfd that the kernel gives", f"Linux {platform.release()}")


def _pidfd_inode() -> Finding:
    try:
        inodes = {_inode_of(pid) for pid in (os.getpid(), 1)}
    except OSError as error:
        return failed("kernel.pidfd_inode", "pidfds cannot be opened", reason_of(error), "run Linux 6.9 or newer")
    evidence = f"inodes {', '.join(map(str, sorted(inodes)))}"
    if len(inodes) < 2 and os.getpid() != 1:
        return failed(
            "kernel.pidfd_inode", "a pidfd's inode does not name its process", evidence, "run Linux 6.9 or newer"
        )
    return ok("kernel.pidfd_inode", "a pidfd's inode names one process for the life of the machine", evidence)


def _inode_of(pid: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        return os.fstat(pidfd).st_ino
    finally:
        os.close(pidfd)


def _pidfd_handle() -> Finding:
    pidfd = os.pidfd_open(os.getpid())
    try:
        handle = ctypes.create_string_buffer(struct.pack("=Ii", _HANDLE_BYTES, 0) + bytes(_HANDLE_BYTES))
        done = _libc.name_to_handle_at(pidfd, b"", handle, ctypes.byref(ctypes.c_int()), _AT_EMPTY_PATH)
    finally:
        os.close(pidfd)
    if done < 0:
        return warning(
            "kernel.pidfd_handles",
            "the broker must share the attestor's pid namespace",
            f"name_to_handle_at: {_errno()}",
            "run Linux 6.14 or newer, or both daemons in one pid namespace",
        )
    return ok(
        "kernel.pidfd_handles", "processes can be named across pid namespaces", "name_to_handle_at on a pidfd works"
    )


def _openat2() -> Finding:
    how = struct.pack("=QQQ", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    opened = _libc.syscall(_SYS_OPENAT2, _AT_FDCWD, b"/", how, len(how))
    if opened < 0:
        return failed(
            "kernel.openat2",
            "declared files cannot be opened safely",
            _errno(),
            "run Linux 5.6 or newer, with openat2 allowed",
        )
    os.close(opened)
    return ok(
        "kernel.openat2",
        "declared files can be opened without leaving their root",
        "openat2 with RESOLVE_IN_ROOT works",
    )


def _cgroup() -> Finding:
    controllers = _CGROUP / "cgroup.controllers"
    try:
        if controllers.exists():
            return ok("kernel.cgroup", "cgroup version 2", f"controllers {controllers.read_text().strip() or 'none'}")
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError as error:
        return failed("kernel.cgroup", "cgroups cannot be read", reason_of(error), f"mount -t cgroup2 none {_CGROUP}")
    if not lines:
        return failed("kernel.cgroup", "processes are in no cgroup", "", f"mount -t cgroup2 none {_CGROUP}")
    return ok("kernel.cgroup", "cgroup version 1", f"{len(lines)} hierarchies")


def _watches() -> Finding:
    try:
        allowed = int(_WATCHES.read_text())
    except (OSError, ValueError) as error:
        return failed("kernel.inotify", "files cannot be watched", str(error), "run a kernel with inotify")
    if allowed < MIN_WATCHES:
        remedy = f"sysctl -w fs.inotify.max_user_watches={MIN_WATCHES * 8}"
        return warning("kernel.inotify", "few files can be watched for changes", f"max_user_watches {allowed}", remedy)
    return ok("kernel.inotify", "declared files can be watched", f"max_user_watches {allowed}")


def _errno() -> str:
    return os.strerror(ctypes.get_errno())
