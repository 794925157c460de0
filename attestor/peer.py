"""Pinning a process: a descriptor that names it for as long as anyone cares, whatever its pid is reused for.

Owns: turning a socket, a pidfs inode or a pid into a :class:`PinnedProcess`, and
saying whether it still lives. Does not own: what the process is (``attestor.evidence``)
or what the kernel's texts about it mean (``attestor.proc_text``).

Security: a pid is only ever used between two looks at a live pidfd of the same
process, so a reused pid is noticed. On new kernels ``SO_PEERPIDFD`` succeeds for
a peer that is dead already, hence the poll right after it; ``EINVAL`` means a
dead peer too, and only ``ENOPROTOOPT`` means an old kernel. Every path that
fails closes what it opened.

Source: runtime.md, "Naming a process between broker and attestor";
linux net/core/sock.c (SO_PEERPIDFD), fs/pidfs.c.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from attestor import syscalls
from attestor.proc_text import ProcTextInvalid, parse_ids, parse_start_ticks, parse_status
from hopseal.errors import DeniedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

SO_PEERPIDFD: Final = 77  # asm-generic/socket.h; parisc and sparc differ and are not supported
MAX_PROC_TEXT_BYTES: Final = 65_536  # no /proc text that is read whole here comes near it
_UCRED: Final = struct.Struct("=iii")
_BOOT_ID_BYTES: Final = 16


class PeerGone(DeniedError):  # noqa: N818 - the names of states read better without a suffix
    """The process exited before it was pinned or measured (code ``peer_gone``)."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("peer_gone", "the calling process has exited", detail=detail)


class PeerUnpinnable(UnavailableError):  # noqa: N818
    """The process lives but cannot be named here (code ``peer_unpinnable``)."""

    def __init__(self, detail: str, *, remedy: str = "") -> None:
        super().__init__("peer_unpinnable", "the calling process cannot be identified", detail=detail, remedy=remedy)


@dataclass(frozen=True, slots=True)
class PinnedProcess:
    """One process and the pidfd that keeps its name unique; owns the descriptor.

    Attributes:
        pid: in the attestor's pid namespace; valid while :meth:`alive`.
        uid, gid: of the connect for :func:`pin_peer`, effective at pinning otherwise.
        start_ticks: start time in clock ticks since boot.
        pidfd: readable once the process has exited.
        pidfd_inode: unique for the life of the machine; 0 on kernels without pidfs.
    """

    pid: int
    uid: int
    gid: int
    start_ticks: int
    pidfd: int
    pidfd_inode: int

    def alive(self) -> bool:
        """Whether the process has not exited; a zombie has."""
        return _lives(self.pidfd)

    def duplicate(self) -> PinnedProcess:
        """The same process with a descriptor of its own."""
        return PinnedProcess(self.pid, self.uid, self.gid, self.start_ticks, os.dup(self.pidfd), self.pidfd_inode)

    def close(self) -> None:
        """Give the descriptor back; call once."""
        os.close(self.pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def close_all(processes: Iterable[PinnedProcess]) -> None:
    """Give all of them back; call once."""
    for process in processes:
        process.close()


def pin_peer(peer: socket.socket) -> PinnedProcess:
    """The process that connected or, seen from a client, that called ``listen``.

    Raises:
        PeerGone: it has exited.
        PeerUnpinnable: it is outside this pid namespace, or descriptors ran out.
    """
    pid, uid, gid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        pidfd = peer.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return _pin_credentials(pid, uid, gid)
        if error.errno in {errno.EINVAL, errno.ESRCH, errno.ENODATA}:
            raise PeerGone(f"SO_PEERPIDFD: {error.strerror}") from error
        raise PeerUnpinnable(f"SO_PEERPIDFD: {error.strerror}") from error
    os.set_inheritable(pidfd, False)
    return _pin(pidfd, owner=(uid, gid))


def pin_inode(pidfd_inode: int) -> PinnedProcess:
    """The process whose pidfs inode this is.

    Raises:
        PeerGone: no process has that inode any more, or ever had.
        PeerUnpinnable: the kernel has no pidfs handles, or the inode is a thread's.
    """
    if not 0 < pidfd_inode < 1 << 64:
        raise PeerGone(f"no process has pidfd inode {pidfd_inode}")
    try:
        pidfd = syscalls.open_pidfd_by_inode(pidfd_inode)
    except OSError as error:
        can_open = _opens_pidfs_handles()
        if error.errno in {errno.ESTALE, errno.ESRCH} and can_open:
            raise PeerGone(f"pidfd inode {pidfd_inode}: {error.strerror}") from error
        remedy = "" if can_open else "run Linux 6.14 or later, which opens processes by their lasting names"
        raise PeerUnpinnable(f"pidfd inode {pidfd_inode}: {error.strerror}", remedy=remedy) from error
    return _pin(pidfd)


def pin_pid(pid: int) -> PinnedProcess:
    """The process that has this pid now; only for pids that the kernel or the engine just named.

    Raises:
        PeerGone: no process has the pid, or it exited meanwhile.
        PeerUnpinnable: the pid is a thread's, or descriptors ran out.
    """
    if not 0 < pid < 1 << 31:
        raise PeerGone(f"no process has pid {pid}")
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise PeerGone(f"pid {pid}") from error
    except OSError as error:
        raise PeerUnpinnable(f"pidfd_open({pid}): {error.strerror}") from error
    return _pin(pidfd)


def boot_id() -> bytes:
    """The 16 bytes that name this boot; pidfd inodes are unique within it."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    value = bytes.fromhex(text.strip().replace("-", ""))
    if len(value) != _BOOT_ID_BYTES:
        raise ProcTextInvalid(f"boot_id {text!r}")
    return value


def read_proc(pid: int, name: str, *, limit_bytes: int = MAX_PROC_TEXT_BYTES) -> bytes:
    """The text of ``/proc/PID/name``.

    Raises:
        PeerGone: the process has exited.
        ProcTextInvalid: the text is longer.
        OSError: it cannot be read.
    """
    text = bytearray()
    try:
        with Path(f"/proc/{pid}/{name}").open("rb", buffering=0) as file:
            while chunk := file.read(MAX_PROC_TEXT_BYTES):
                text += chunk
                if len(text) > limit_bytes:
                    raise ProcTextInvalid(f"/proc/{pid}/{name} is longer than {limit_bytes} bytes")
            return bytes(text)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise PeerGone(f"/proc/{pid}/{name}: {error.strerror}") from error


def _lives(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return not poller.poll(0)


@contextmanager
def _closed_on_error(fd: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(fd)
        raise


def _pin(pidfd: int, owner: tuple[int, int] | None = None) -> PinnedProcess:
    """Take ``pidfd`` over, or close it: liveness, pid, start time, liveness again."""
    with _closed_on_error(pidfd):
        if not _lives(pidfd):
            raise PeerGone("the pidfd says so")
        try:
            pid = _pid_of(pidfd)
            start_ticks = parse_start_ticks(read_proc(pid, "stat"))
            status = parse_status(read_proc(pid, "status"))
        except OSError as error:
            raise PeerUnpinnable(f"/proc: {error.strerror}") from error
        if status.get("Tgid") != str(pid):
            raise PeerUnpinnable(f"{pid} is a thread, not a process")
        uid, gid = owner or (parse_ids(status, "Uid")[1], parse_ids(status, "Gid")[1])
        inode = os.fstat(pidfd).st_ino if syscalls.filesystem_magic(pidfd) == syscalls.PIDFS_MAGIC else 0
        if not _lives(pidfd):  # what was read may be about the next process of that pid
            raise PeerGone(f"pid {pid} exited while it was pinned")
        return PinnedProcess(pid, uid, gid, start_ticks, pidfd, inode)


def _pin_credentials(pid: int, uid: int, gid: int) -> PinnedProcess:
    """The fallback for kernels before 6.5: the pid of SO_PEERCRED, opened and compared.

    Security: a pid reused between connect and here cannot be told apart by the pidfd, but the
    new process would have to run as the connecting uid and gid as well.
    """
    process = pin_pid(pid)
    if (process.uid, process.gid) != (uid, gid):
        process.close()
        raise PeerGone(f"pid {pid} is no longer the process that connected")
    return process


def _opens_pidfs_handles() -> bool:
    """Whether this kernel can: older ones say of every process, and so of this one, that its handle is stale."""
    own = os.pidfd_open(os.getpid())
    try:
        os.close(syscalls.open_pidfd_by_inode(os.fstat(own).st_ino))
    except OSError:
        return False
    finally:
        os.close(own)
    return True


def _pid_of(pidfd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            pid = int(value)
            if pid > 0:
                return pid
            if pid == 0:
                raise PeerUnpinnable(
                    "the process is outside this pid namespace", remedy="run the attestor in the host's pid namespace"
                )
            raise PeerGone("the pidfd names no process")
    raise ProcTextInvalid(f"fdinfo of pidfd {pidfd} has no Pid")
