"""Who answers where a component listens on TCP: asked of the attestor, which may enter its network namespace.

Owns: one request on the attestor's ``connect.sock``. Does not own: making connections for calls (the data plane).

Source: docs/adr/0016.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

from broker.process import Listener
from hopseal.errors import DeniedError, UnavailableError

_MAX_ANSWER = 4096
_TIMEOUT_S = 6.0


class NoListenerError(DeniedError):
    """The attestor makes no connection; the code is its own."""


async def find_tcp_listener(connect_socket: Path, component: str) -> Listener:
    """A process that answers for ``component``; the connection to it is closed at once.

    Raises:
        NoListenerError: nobody listens, or not the component alone.
        UnavailableError: the attestor does not answer (``attestor_unavailable``).
    """
    try:
        answer = await asyncio.to_thread(_ask, connect_socket, component)
    except (OSError, ValueError, TypeError) as error:
        raise UnavailableError(
            "attestor_unavailable", "the attestor makes no connections", detail=str(error)
        ) from error
    inode = answer.get("pidfd_inode")
    if not isinstance(inode, int):
        raise NoListenerError(str(answer.get("refused")), str(answer.get("detail")))
    return Listener(inode)


def _ask(connect_socket: Path, component: str) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(_TIMEOUT_S)
        sock.connect(str(connect_socket))
        sock.sendall(json.dumps({"component": component}).encode() + b"\n")
        data, fds, _, _ = socket.recv_fds(sock, _MAX_ANSWER, 2)
    for fd in fds:
        os.close(fd)
    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise TypeError("not an answer")
    return answer
