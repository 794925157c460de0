"""Every process that holds a listening Unix socket.

Owns: finding them when the process that called ``listen`` is dead, as with
pre-forking servers whose workers go on serving. Does not own: judging them.

1. The socket file names an inode; the kernel's socket diagnosis names the listening socket that is
   bound to it, by that inode and device, so the same path in another container cannot be confused with it.
2. That list covers one network namespace at a time, so each in use is asked.
3. A holder is whoever has the socket among its descriptors. Each candidate is pinned first, then
   looked at, then must still be alive.
4. Two looks in a row must find the same holders, because one may fork or pass the socket on meanwhile.

A descriptor that is on its way inside a message, or known only to a ring of io_uring, is held by nobody that
``/proc`` shows: a stated limit.

Blocking: it reads every process's descriptors.

Source: runtime.md, "Listener check"; sock_diag(7), linux/unix_diag.h.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from attestor.peer import PeerGone, PeerUnpinnable, PinnedProcess, pin_pid, read_proc
from attestor.proc_text import ProcTextInvalid, parse_status
from attestor.sock_diag import ListenersUnreadable, dump_sockets, in_namespace, parse_dump

_TCP_LISTEN: Final = 10
_UDIAG_SHOW_VFS: Final = 0x02
_UNIX_DIAG_VFS: Final = 1
_REQUEST: Final = struct.Struct("=BBHIIIII")  # unix_diag_req
_MESSAGE: Final = struct.Struct("=BBBBIII")  # unix_diag_msg
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr
_VFS: Final = struct.Struct("=II")  # unix_diag_vfs: inode, device
_ATTEMPTS: Final = 4
_SOCKET_LINK: Final = re.compile(r"socket:\[([0-9]+)\]")


def find_listeners(path: str) -> list[PinnedProcess]:
    """Every process that holds the listening socket at ``path``, each pinned; empty if nobody listens.

    The caller closes what it gets.

    Raises:
        ListenersUnreadable: the path is no socket, the kernel does not say, or holders kept changing.
    """
    previous: frozenset[tuple[int, int]] | None = None
    for _ in range(_ATTEMPTS):
        with ExitStack() as opened:
            found = [opened.enter_context(process) for process in holders_of(_listening_inodes(path))]
            current = frozenset((process.pid, process.start_ticks) for process in found)
            if current == previous:
                opened.pop_all()
                return found
            previous = current
    raise ListenersUnreadable(f"{path}: the holders kept changing")


def parse_unix_diag(reply: bytes) -> tuple[list[tuple[int, int, int]], bool]:
    """The listening sockets in one netlink reply, and whether it was the last.

    Returns:
        (socket inode, file inode's low 32 bits, file's device) each.

    Raises:
        ListenersUnreadable: the kernel refused, or the reply is malformed.
    """
    return parse_dump(reply, "unix_diag", _parse_message)


def _parse_message(body: bytes) -> Iterator[tuple[int, int, int]]:
    if len(body) < _MESSAGE.size:
        raise ListenersUnreadable("a netlink message is cut off")
    _, _, state, _, inode, _, _ = _MESSAGE.unpack_from(body)
    offset = _MESSAGE.size
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            raise ListenersUnreadable("a netlink attribute is malformed")
        if kind == _UNIX_DIAG_VFS and length >= _ATTRIBUTE.size + _VFS.size and state == _TCP_LISTEN:
            file_inode, device = _VFS.unpack_from(body, offset + _ATTRIBUTE.size)
            yield inode, file_inode, device
        offset += (length + 3) & ~3


def _listening_inodes(path: str) -> frozenset[int]:
    """Inodes of the sockets that listen at the file, in whichever network namespace they were made."""
    try:
        status = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - the link itself must not be followed
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise ListenersUnreadable(f"{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenersUnreadable(f"{path} is not a socket")
    device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)  # the kernel's own encoding of dev_t
    wanted = (status.st_ino & 0xFFFFFFFF, device)
    found: set[int] = set()
    for namespace in network_namespaces():
        found.update(inode for inode, *file in _dump(namespace) if tuple(file) == wanted)
    return frozenset(found)


def network_namespaces() -> list[str]:
    """One path for each network namespace that a process is in."""
    paths: dict[int, str] = {}
    for pid in _pids():
        path = f"/proc/{pid}/ns/net"
        try:
            paths.setdefault(os.stat(path).st_ino, path)  # noqa: PTH116 - a magic link, not a path
        except OSError:
            continue  # exited, or not ours to look at: then its descriptors are not either
    return list(paths.values())


def _dump(namespace: str) -> list[tuple[int, int, int]]:
    """Every listening socket of a network namespace; none once its last process exited: nobody is left to listen."""
    return in_namespace(namespace, _dump_here, gone=[])


def _dump_here() -> list[tuple[int, int, int]]:
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << _TCP_LISTEN, 0, _UDIAG_SHOW_VFS, 0xFFFFFFFF, 0xFFFFFFFF)
    return dump_sockets(request, parse_unix_diag)


def holders_of(inodes: frozenset[int]) -> Iterator[PinnedProcess]:
    """Every process that has one of the sockets ``inodes`` among its descriptors, pinned for the caller.

    Raises:
        ListenersUnreadable: the descriptors of one cannot be read.
    """
    if not inodes:
        return
    for pid in _pids():
        if not _holds(pid, inodes):
            continue
        try:
            process = pin_pid(pid)
        except PeerGone:
            continue
        except PeerUnpinnable as error:
            raise ListenersUnreadable(error.detail) from error
        if _holds(pid, inodes) and process.alive():
            yield process
        else:
            process.close()


def _holds(pid: int, inodes: frozenset[int]) -> bool:
    try:
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            for descriptor in descriptors:
                try:
                    match = _SOCKET_LINK.fullmatch(os.readlink(descriptor.path))  # noqa: PTH115 - a magic link
                except FileNotFoundError:
                    continue
                if match is not None and int(match[1]) in inodes:
                    return True
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError as error:
        if _outranks_us(pid):
            return False
        raise ListenersUnreadable(f"/proc/{pid}/fd: {error.strerror}") from error
    return False


def _outranks_us(pid: int) -> bool:
    """Whether a process has capabilities that the attestor lacks; such a one could take any identity as it is."""
    try:
        theirs, ours = (int(parse_status(read_proc(each, "status"))["CapPrm"], 16) for each in (pid, os.getpid()))
    except (PeerGone, ProcTextInvalid, KeyError, ValueError):
        return False
    return theirs & ~ours != 0


def _pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - names, not paths
