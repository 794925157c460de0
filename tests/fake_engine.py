"""A container engine that tells the truth, lies, stalls or breaks off, over a real Unix socket."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

IMAGE = "sha256:" + "ab" * 32
MANIFEST = "sha256:" + "cd" * 32
Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


def inspect_answer(container_id: str, pid: int, **changes: Any) -> dict[str, Any]:
    """What Docker says about a plain running container."""
    answer: dict[str, Any] = {
        "Id": container_id,
        "Name": "/fake",
        "Image": IMAGE,
        "State": {"Running": True, "Pid": pid},
        "Config": {"Labels": {"team": "sales"}},
        "HostConfig": {
            "Privileged": False,
            "SecurityOpt": None,
            "Devices": [],
            "Sysctls": None,
            "MaskedPaths": ["/proc/kcore"],
            "PortBindings": {},
        },
        "Mounts": [],
    }
    return copy.deepcopy(answer) | changes


def response(body: bytes, *, status: str = "200 OK", length: int | None = None) -> bytes:
    """One HTTP answer; ``length`` may claim something else than the truth."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body) if length is None else length}\r\n\r\n".encode() + body


class FakeEngine:
    """Serves ``containers`` (by id), ``images`` (by digest) and ``events``, unless ``handler`` takes over."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.containers: dict[str, dict[str, Any]] = {}
        self.images: dict[str, dict[str, Any]] = {IMAGE: {"Id": IMAGE, "RepoDigests": [f"fake@{MANIFEST}"]}}
        self.handler: Handler | None = None
        self.requests: list[str] = []
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self._streams: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests on one connection until it closes."""
        self._connections[writer] = asyncio.current_task()
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ")[1].decode()
                self.requests.append(path)
                await (self.handler or self._answer)(path, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._streams.discard(writer)
            del self._connections[writer]

    async def emit(self, container_id: str, action: str) -> None:
        """Send one event to everybody who listens."""
        event = {"Type": "container", "Action": action, "Actor": {"ID": container_id}, "timeNano": 1}
        line = json.dumps(event).encode() + b"\n"
        for writer in tuple(self._streams):
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()

    @property
    def listeners(self) -> int:
        """How many connections wait for events."""
        return len(self._streams)

    def cut(self) -> None:
        """Break every connection off."""
        for task in tuple(self._connections.values()):
            if task is not None:
                task.cancel()

    async def wait_idle(self) -> None:
        """Return once no connection is left."""
        while self._connections:
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # aborted transports close in the next round of the loop

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path.startswith("/events"):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self._streams.add(writer)
            return
        kind, _, rest = path.strip("/").partition("/")
        if path == "/containers/json":
            found: Any = [{"Id": each} for each in self.containers]
        else:
            table = self.containers if kind == "containers" else self.images
            found = table.get(rest.removesuffix("/json"))
        if found is None:
            writer.write(response(b'{"message":"no such thing"}', status="404 Not Found"))
        else:
            writer.write(response(json.dumps(found).encode()))


@asynccontextmanager
async def fake_engine(path: Path) -> AsyncIterator[FakeEngine]:
    """A fake engine that listens at ``path``."""
    engine = FakeEngine(str(path))
    server = await asyncio.start_unix_server(engine.serve, path)
    try:
        yield engine
    finally:
        server.close()
        engine.cut()
        await engine.wait_idle()
        await server.wait_closed()
        path.unlink(missing_ok=True)


async def hang(_path: str, _writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def drip(_path: str, writer: asyncio.StreamWriter) -> None:
    """Answer one byte at a time, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_head(_path: str, writer: asyncio.StreamWriter) -> None:
    """Send header after header, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Slow: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def flood(_path: str, writer: asyncio.StreamWriter) -> None:
    """Answer ten megabytes."""
    writer.write(response(b'"' + b"x" * 10_000_000 + b'"'))
    await writer.drain()


async def endless(_path: str, writer: asyncio.StreamWriter) -> None:
    """Answer in chunks without end."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        await writer.drain()


async def truncated(_path: str, writer: asyncio.StreamWriter) -> None:
    """Promise more than comes, then close."""
    writer.write(response(b'{"Id": "', length=4000))
    await writer.drain()
    writer.close()


async def error_500(_path: str, writer: asyncio.StreamWriter) -> None:
    """Fail."""
    writer.write(response(b"{}", status="500 Internal Server Error"))


async def not_http(_path: str, writer: asyncio.StreamWriter) -> None:
    """Speak another protocol."""
    writer.write(b"\x00\x01SSH-2.0\r\n\r\n")
    await writer.drain()
    writer.close()


async def not_json(_path: str, writer: asyncio.StreamWriter) -> None:
    """Answer something that is no JSON."""
    writer.write(response(b"<html>"))


async def redirect(_path: str, writer: asyncio.StreamWriter) -> None:
    """Send the client elsewhere."""
    head = "302 Found\r\nLocation: http://127.0.0.1:1/containers"
    writer.write(response(b"", status=head))


async def close(_path: str, writer: asyncio.StreamWriter) -> None:
    """Close without an answer."""
    writer.close()
