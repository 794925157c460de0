"""A component that keeps every byte it gets, and reads them as strictly as can be."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_HEAD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [!-~]+ HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")


@dataclass(frozen=True)
class RawRequest:
    """One request, as the bytes say."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]


class NotOneRequestError(Exception):
    """Another server could read these bytes in another way."""


def parse_request(data: bytes) -> tuple[RawRequest, bytes] | None:
    """The first request in ``data`` and what follows it; None until it is whole.

    Raises:
        NotOneRequestError: the bytes have a second reading.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.split(b"\r\n")
    matched = [_FIELD.fullmatch(line) for line in lines]
    if not _HEAD.fullmatch(first) or not all(matched):
        raise NotOneRequestError(head)
    fields = tuple((found[1].decode().lower(), found[2].decode("latin-1")) for found in matched if found)
    method, target, _ = first.decode().split(" ")
    framing = [(name, value) for name, value in fields if name in {"content-length", "transfer-encoding"}]
    if len(framing) > 1 or len([name for name, _ in fields if name == "host"]) != 1:
        raise NotOneRequestError(head)
    match framing:
        case [("transfer-encoding", "chunked")]:
            found = _read_chunks(rest)
        case [("transfer-encoding", _)]:
            raise NotOneRequestError(head)
        case _:
            length = int(framing[0][1]) if framing else 0
            found = (rest[:length], rest[length:]) if len(rest) >= length else None
    return found and (RawRequest(method, target, fields, found[0]), found[1])


def _read_chunks(data: bytes) -> tuple[bytes, bytes] | None:
    body = b""
    while found := _CHUNK.match(data):
        size, data = int(found[1], 16), data[found.end() :]
        if len(data) < size + 2:
            return None
        chunk, end, data = data[:size], data[size : size + 2], data[size + 2 :]
        if end != b"\r\n":
            raise NotOneRequestError(chunk)
        if size == 0:
            return body, data
        body += chunk
    if b"\n" in data:
        raise NotOneRequestError(data)
    return None


@dataclass
class RawOrigin:
    """Answers every whole request with ``ok``; ``faults`` are bytes that are not exactly whole requests."""

    path: Path
    requests: list[RawRequest] = field(default_factory=list)
    faults: list[bytes] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self.path.chmod(0o777)
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError), connection:
            while chunk := connection.recv(65536):
                data += chunk
                try:
                    while parsed := parse_request(data):
                        request, data = parsed
                        self.requests.append(request)
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[
                                : -2 if request.method == "HEAD" else None
                            ]
                        )
                except NotOneRequestError:
                    self.faults.append(data)
                    return
        if data:
            self.faults.append(data)
