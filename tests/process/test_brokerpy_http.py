"""A connection to the broker's own HTTP lives for a bounded time, whatever its client does."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from broker.serving import serve_routes


async def test_a_client_that_says_nothing_is_cut(tmp_path):
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "a.sock"))
        async with serve_routes(listening, [web.get("/", answer)], life_s=0.2):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "a.sock")
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n")
            text = await asyncio.wait_for(_read_to_end(reader), 5)
            writer.close()
    assert text.startswith(b"HTTP/1.1 200 OK")
    assert text.count(b"HTTP/1.1") == 1


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    found = b""
    try:
        while chunk := await reader.read(4096):
            found += chunk
    except ConnectionResetError:
        pass
    return found
