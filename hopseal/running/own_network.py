"""A network of its own for a process tree: it has one loopback interface, and on it the bridge.

Owns: making it in the child before the program starts, and handing the bridge's listening socket to the parent.
Whoever connects to that socket is in that network, so nobody has to be looked up; and a program that does not care
about proxies reaches nothing.

Source: network_namespaces(7), user_namespaces(7), netdevice(7).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

from hopseal.errors import UnavailableError

PORT: Final = 3128  # nobody else is there to have it
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_MESSAGE_BYTES: Final = 1024


class OwnNetwork:
    """One for each run: give ``enter`` to the child, then take the ``listener``."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(5)

    def enter(self) -> None:
        """In the child: go there, and send the listening socket, or why not."""
        try:
            _unshare()
            _bring_up_loopback()
            with socket.create_server(("127.0.0.1", PORT)) as listener:
                socket.send_fds(self._theirs, [b"\0"], [listener.fileno()])
        except OSError as error:
            self._theirs.send(f"{error.strerror}".encode())
            raise

    def listener(self) -> socket.socket:
        """In the parent: the socket that the bridge serves.

        Raises:
            UnavailableError: this host does not let us make a network (code ``network_unavailable``).
        """
        self._theirs.close()
        with self._ours:
            text, descriptors, _, _ = socket.recv_fds(self._ours, _MESSAGE_BYTES, 1)
        if not descriptors:
            raise UnavailableError(
                "network_unavailable",
                "no network of its own can be made for the program",
                detail=text.decode(errors="replace"),
                remedy="allow unprivileged user namespaces, run as root, or leave --isolate away",
            )
        return socket.socket(fileno=descriptors[0])


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) == 0:
        return
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _bring_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
