"""The processes that descend from one, and whether they hold the other end of a loopback connection.

Owns: asking the kernel. A connection is accepted for a process tree only if a process of the tree holds the socket at
its other end *now*: its inode comes from the kernel's socket diagnosis, by the four numbers of the connection, and its
holder from ``/proc/PID/fd``. The caller is the tree's subreaper, so orphans stay in the tree, and nothing enters a tree
but by being born there.

What this cannot see: a process of the tree that hands its connection to somebody else, or another process of the
same user that traces one of the tree. Both act with the program's consent or in its place; ``docs/run.md`` says so.

Blocking: it reads every process's parent and the descriptors of the tree.
Source: sock_diag(7), linux/inet_diag.h, proc(5), PR_SET_CHILD_SUBREAPER in prctl(2).
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from dataclasses import dataclass
from typing import Final

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
_TCP_ESTABLISHED: Final = 1
_ALL_STATES: Final = 0xFFFFFFFF
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST: Final = struct.Struct("=BBBBI")  # inet_diag_req_v2 up to its id
_SOCKET_ID: Final = struct.Struct("!HH16s16s")  # inet_diag_sockid up to the interface
_ANY: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # any interface, no cookie
_MESSAGE: Final = struct.Struct("=BBBB48xIIIII")  # inet_diag_msg
_RECEIVE_BYTES: Final = 1 << 14
_SOCKET_LINK: Final = re.compile(r"socket:\[([0-9]+)\]")
_PARENT_OF_STAT: Final = re.compile(rb".*\) \S ([0-9]+) ", re.DOTALL)  # the name before may hold anything
_MAX_RECENT: Final = 16
_MAX_DEPTH: Final = 64
_ATTEMPTS: Final = 3  # a process that forks meanwhile is missed at most that often

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """A TCP socket of this network namespace."""

    inode: int
    uid: int
    is_established: bool


class Family:
    """The descendants of a process, asked about one connection after the other.

    Args:
        ancestor: pid; not itself one of its descendants.
    """

    def __init__(self, ancestor: int) -> None:
        self._ancestor = ancestor
        self._recent: list[int] = []  # who held the last ones: looked at before all others

    def holds(self, near: Address, far: Address) -> bool:
        """Whether a descendant holds the far end of the IPv4 connection between the two addresses.

        Args:
            near: our end of the connection.
            far: its other end.
        """
        for _ in range(_ATTEMPTS):
            before = find_socket(far, near)
            if before is None or not before.is_established or not _may_be_ours(before.uid):
                return False
            holder = self._holder(before.inode)
            if holder is not None:
                self._recent = [holder, *(each for each in self._recent if each != holder)][:_MAX_RECENT]
                # The number is only worth something if it was the connection's all along.
                return find_socket(far, near) == before
        return False

    def _holder(self, inode: int) -> int | None:
        for pid in self._recent:
            # A number may be another process's by now, so what holds the socket must be shown to be of the tree.
            if _holds(pid, inode) and is_descendant(pid, self._ancestor):
                return pid
        return next((pid for pid in descendants(self._ancestor) if _holds(pid, inode)), None)


def is_descendant(pid: int, ancestor: int) -> bool:
    """Whether ``ancestor`` is among the parents of a process."""
    for _ in range(_MAX_DEPTH):
        parent = _parent(pid)
        if parent is None or parent <= 1:
            return False
        if parent == ancestor:
            return True
        pid = parent
    return False


def descendants(ancestor: int) -> frozenset[int]:
    """Pids of all processes below ``ancestor``."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names, not paths
        if name.isdigit() and (parent := _parent(int(name))) is not None:
            children.setdefault(parent, []).append(int(name))
    found: set[int] = set()
    pending = list(children.get(ancestor, ()))
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += children.get(pid, ())
    return frozenset(found)


def find_socket(local: Address, remote: Address) -> OpenSocket | None:
    """The socket with that local and remote IPv4 address; None if there is none.

    Raises:
        OSError: the kernel does not say.
    """
    ends = _SOCKET_ID.pack(local[1], remote[1], _packed(local), _packed(remote))
    request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + ends + _ANY
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1)
        netlink.send(header + request)
        return parse_reply(netlink.recv(_RECEIVE_BYTES))


def parse_reply(reply: bytes) -> OpenSocket | None:
    """The socket that the kernel's answer describes; None if it says that there is none."""
    if len(reply) < _HEADER.size:
        raise OSError(errno.EPROTO, "a netlink message is cut off")
    length, kind, *_ = _HEADER.unpack_from(reply)
    body = reply[_HEADER.size : length]
    if kind == _NLMSG_ERROR and len(body) >= struct.calcsize("=i"):
        code = -struct.unpack_from("=i", body)[0]
        if code == errno.ENOENT:
            return None
        raise OSError(code, os.strerror(code))
    if kind != _SOCK_DIAG_BY_FAMILY or len(body) < _MESSAGE.size:
        raise OSError(errno.EPROTO, "a netlink message is cut off")
    _, state, *_, uid, inode = _MESSAGE.unpack_from(body)
    return OpenSocket(inode, uid, is_established=state == _TCP_ESTABLISHED)


def _may_be_ours(uid: int) -> bool:
    """Cheap, so that other users cannot make us read all of ``/proc``; only root's programs become other users."""
    own = os.geteuid()
    return own in {0, uid}


def _packed(address: Address) -> bytes:
    return socket.inet_aton(address[0]).ljust(16, b"\0")


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - a hot loop
            match = _PARENT_OF_STAT.match(file.read())
    except OSError:
        return None
    return None if match is None else int(match[1])


def _holds(pid: int, inode: int) -> bool:
    try:
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            return any(_inode(descriptor.path) == inode for descriptor in descriptors)
    except OSError:
        return False  # gone, or of another user: then it is not shown to be ours


def _inode(path: str) -> int | None:
    try:
        match = _SOCKET_LINK.fullmatch(os.readlink(path))  # noqa: PTH115 - a magic link
    except OSError:
        return None
    return None if match is None else int(match[1])
