"""One HTTP exchange over a Unix socket, with the standard library alone so that commands start fast."""

from __future__ import annotations

import errno
import http.client
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROBLEM_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete response; header names are in lower case."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return http.HTTPStatus.OK <= self.status < http.HTTPStatus.MULTIPLE_CHOICES

    @property
    def text(self) -> str:
        """The body as text; what is no UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace")

    def header(self, name: str) -> str | None:
        """The first value of the header ``name`` (lower case), or None."""
        return next((value for each, value in self.headers if each == name), None)


def exchange(
    path: Path,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout_s: float,
) -> HttpAnswer:
    """The answer to one request.

    Args:
        path: of the Unix socket.
        method: HTTP method.
        target: path and query as they go onto the wire.
        headers: ``Host`` is ``localhost`` unless given.
        body: of the request; its length is sent.
        timeout_s: for each step of the exchange.

    Raises:
        OSError: nobody listens there, this user may not connect, or the peer went away.
        http.client.HTTPException: the request cannot be written, or the answer is no HTTP.
    """
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request(method, target, body, dict(headers or {}))
        answer = connection.getresponse()
        listed = tuple((name.lower(), value) for name, value in answer.getheaders())
        return HttpAnswer(answer.status, answer.reason, listed, answer.read())
    finally:
        connection.close()


def is_listening(path: Path) -> bool:
    """Whether somebody listens on the Unix socket at ``path``; never blocks."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        # A full backlog is somebody too.
        return sock.connect_ex(str(path)) in {0, errno.EAGAIN}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self._timeout_s)
            sock.connect(str(self._path))
        except BaseException:
            sock.close()
            raise
        self.sock = sock
