"""Connections to components that listen on TCP in a network namespace of their own, each to a known process.

Owns: finding the namespaces in which somebody listens at an address, connecting there, and finding out which processes
hold the other end of that very connection. Does not own: judging them (``attestor.api.connect``).

1. Each network namespace that a process is in is asked for its listening sockets (inet_diag).
2. Listening at every address would let others reach the component without the broker: told apart, not connected to.
3. A thread moves into the namespace and connects.
4. Who listens proves little: another process may share the port (SO_REUSEPORT), or take it when the component ends.
   So the other end of the connection is looked up by its four numbers, once it has been accepted; until then it has no
   inode. Its holders are who is spoken to: found, pinned, and found again.

Nothing has been sent by then. Blocking: it reads every process's descriptors.

Source: docs/adr/0016; sock_diag(7), linux/inet_diag.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from attestor.listeners import holders_of, network_namespaces
from attestor.peer import PinnedProcess
from attestor.sock_diag import ListenersUnreadable, dump_sockets, in_namespace, parse_dump

_ESTABLISHED: Final = 1  # net/tcp_states.h
_LISTEN: Final = 10
_REQUEST: Final = struct.Struct("=BBBBI48x")  # inet_diag_req_v2, its inet_diag_sockid zero
_MESSAGE: Final = struct.Struct("=BBBB2s2s16s16s12xIIIII")  # inet_diag_msg
_CONNECT_S: Final = 1.0
_ACCEPT_S: Final = 1.0
_LOOK_S: Final = 0.002

Address = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


@dataclass(frozen=True, slots=True)
class DiagSocket:
    """One TCP socket of a namespace; ``inode`` is 0 while nobody has accepted it."""

    state: int
    local: Address
    remote: Address
    inode: int


@dataclass(frozen=True, slots=True)
class Listening:
    """Somebody listens at a port in one network namespace.

    Args:
        namespace: a path of it in ``/proc``.
        inodes: of the sockets that listen at the wanted address.
        exposed: of those that listen at that port on every address.
    """

    namespace: str
    inodes: frozenset[int]
    exposed: frozenset[int]


@dataclass(slots=True)
class Connection:
    """A connection and who holds its other end; both belong to whoever made it."""

    sock: socket.socket
    holders: list[PinnedProcess]

    def close(self) -> None:
        """Give everything back; call once."""
        self.sock.close()
        for holder in self.holders:
            holder.close()


def find_tcp_listeners(address: Address) -> list[Listening]:
    """Each network namespace in which somebody listens at ``address`` or at its port on every address.

    Raises:
        ListenersUnreadable: the kernel does not say.
    """
    host, port = address
    found = []
    for namespace in network_namespaces():
        sockets = [each for each in _dump(namespace, _LISTEN) if each.local[1] == port and each.inode]
        at = frozenset(each.inode for each in sockets if each.local[0] == host)
        exposed = frozenset(each.inode for each in sockets if each.local[0].is_unspecified)
        if at or exposed:
            found.append(Listening(namespace, at, exposed))
    return found


def pin_holders(inodes: frozenset[int]) -> list[PinnedProcess]:
    """Every process that has one of the sockets ``inodes``, pinned for the caller.

    Raises:
        ListenersUnreadable: some process' descriptors cannot be read.
    """
    with ExitStack() as opened:
        found = [opened.enter_context(process) for process in holders_of(inodes)]
        opened.pop_all()
        return found


def connect_in(namespace: str, address: Address) -> Connection:
    """A connection to ``address`` in a network namespace that was accepted, and who accepted it.

    Raises:
        ListenersUnreadable: nobody accepts, or its holders cannot be found out or keep changing.
    """
    sock = in_namespace(namespace, partial(_connect, address), gone=None)
    if sock is None:
        raise ListenersUnreadable(f"{namespace}: the network namespace is gone")
    try:
        inode = _accepted_inode(namespace, address, sock)
        return Connection(sock, _settled_holders(inode))
    except BaseException:
        sock.close()
        raise


def parse_inet_diag(reply: bytes) -> tuple[list[DiagSocket], bool]:
    """The sockets in one netlink reply, and whether it was the last.

    Raises:
        ListenersUnreadable: the kernel refused, or the reply is malformed.
    """
    return parse_dump(reply, "inet_diag", _parse_message)


def _parse_message(body: bytes) -> Iterator[DiagSocket]:
    if len(body) < _MESSAGE.size:
        raise ListenersUnreadable("a netlink message is cut off")
    family, state, _, _, sport, dport, src, dst, _, _, _, _, inode = _MESSAGE.unpack_from(body)
    local = (_address(family, src), int.from_bytes(sport))
    remote = (_address(family, dst), int.from_bytes(dport))
    yield DiagSocket(state, local, remote, inode)


def _address(family: int, data: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address mapped into IPv6 is the IPv4 one that it stands for."""
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(data[:4])
    address = ipaddress.IPv6Address(data)
    return address.ipv4_mapped or address


def _connect(address: Address) -> socket.socket | None:
    host, port = address
    family = socket.AF_INET6 if host.version == ipaddress.IPv6Address("::").version else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(_CONNECT_S)
        sock.connect((str(host), port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _accepted_inode(namespace: str, address: Address, sock: socket.socket) -> int:
    host, port = sock.getsockname()[:2]
    remote = (ipaddress.ip_address(host), port)
    deadline = time.monotonic() + _ACCEPT_S
    while True:
        for each in _dump(namespace, _ESTABLISHED):
            if each.inode and each.local == address and each.remote == remote:
                return each.inode
        if time.monotonic() > deadline:
            raise ListenersUnreadable(f"{address[0]} port {address[1]}: nobody accepted the connection in time")
        time.sleep(_LOOK_S)


def _settled_holders(inode: int) -> list[PinnedProcess]:
    """Who has the socket, found twice alike: it may be passed on meanwhile."""
    inodes = frozenset({inode})
    with ExitStack() as opened:
        found = [opened.enter_context(process) for process in holders_of(inodes)]
        again = {(each.pid, each.start_ticks) for each in _looked_at(inodes)}
        if not found or again != {(each.pid, each.start_ticks) for each in found}:
            raise ListenersUnreadable("the connection was passed on while it was looked at")
        opened.pop_all()
        return found


def _looked_at(inodes: frozenset[int]) -> Iterator[PinnedProcess]:
    for process in holders_of(inodes):
        with process:
            yield process


def _dump(namespace: str, state: int) -> list[DiagSocket]:
    return in_namespace(namespace, partial(_dump_here, state), gone=[])


def _dump_here(state: int) -> list[DiagSocket]:
    families = (socket.AF_INET, socket.AF_INET6)
    requests = [_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << state) for family in families]
    return [each for request in requests for each in dump_sockets(request, parse_inet_diag)]
