"""Asking the kernel about the sockets of a network namespace.

Owns: moving into a namespace, the netlink exchange, and cutting its answer into messages. Does not own: what a message
of one protocol says (``listeners``, ``tcp_listeners``).

Source: sock_diag(7), netlink(7), setns(2).
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

from attestor import syscalls
from hopseal.errors import UnavailableError

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST_DUMP: Final = 0x301
_CLONE_NEWNET: Final = 0x40000000
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_RECEIVE_BYTES: Final = 1 << 16

Result = TypeVar("Result")


class ListenersUnreadable(UnavailableError):  # noqa: N818 - the names of states read better without a suffix
    """Who listens cannot be found out (code ``listeners_unreadable``)."""

    def __init__(self, detail: str) -> None:
        super().__init__("listeners_unreadable", "who listens on the socket cannot be found out", detail=detail)


def in_namespace(namespace: str, call: Callable[[], Result], *, gone: Result) -> Result:
    """What ``call`` returns in a network namespace: a thread moves there and ends.

    Args:
        namespace: its path in ``/proc``.
        call: may block.
        gone: the result if the namespace is there no more.

    Raises:
        ListenersUnreadable: it cannot be entered, or ``call`` failed.
    """
    result: list[Result] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            with Path(namespace).open("rb") as file:
                syscalls.setns(file.fileno(), _CLONE_NEWNET)
        except FileNotFoundError:
            result.append(gone)
            return
        except OSError as error:
            failed.append(error)
            return
        try:
            result.append(call())
        except (OSError, ListenersUnreadable) as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="in-namespace", daemon=True)
    thread.start()
    thread.join()
    if not result:
        error = failed[0] if failed else None
        if isinstance(error, ListenersUnreadable):
            raise error
        raise ListenersUnreadable(f"{namespace}: {error}") from error
    return result[0]


def dump_sockets(request: bytes, parse_reply: Callable[[bytes], tuple[list[Result], bool]]) -> list[Result]:
    """Every socket of this thread's network namespace that ``request`` asks for.

    Args:
        request: as the protocol defines it.
        parse_reply: the sockets in one netlink reply, and whether it was the last.

    Raises:
        ListenersUnreadable: the kernel refused, or a reply is malformed.
    """
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
    sockets: list[Result] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.send(header + request)
        last = False
        while not last:
            found, last = parse_reply(netlink.recv(_RECEIVE_BYTES))
            sockets += found
    return sockets


def parse_dump(
    reply: bytes, protocol: str, parse_message: Callable[[bytes], Iterable[Result]]
) -> tuple[list[Result], bool]:
    """What the messages of one netlink reply say, and whether it was the last.

    Raises:
        ListenersUnreadable: the kernel refused, or the reply is malformed.
    """
    sockets: list[Result] = []
    offset = 0
    while offset + _HEADER.size <= len(reply):
        length, kind, _, _, _ = _HEADER.unpack_from(reply, offset)
        if length < _HEADER.size or offset + length > len(reply):
            raise ListenersUnreadable("a netlink message is cut off")
        body = reply[offset + _HEADER.size : offset + length]
        if kind == _NLMSG_DONE:
            return sockets, True
        if kind == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", body)[0] if len(body) >= struct.calcsize("=i") else 0
            raise ListenersUnreadable(f"{protocol}: {os.strerror(code)}")
        sockets += parse_message(body)
        offset += (length + 3) & ~3
    return sockets, False
