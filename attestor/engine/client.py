"""HTTP to one engine's Unix socket, with a deadline and a size cap on everything.

Owns: the connection, status codes, bounds. Does not own: what answers mean
(``attestor.engine.inspect``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from attestor.engine.errors import ContainerUnknown, EngineInvalid, EngineUnavailable

MAX_ANSWER_BYTES: Final = 1 << 20  # an inspect answer is a few kilobytes; labels may add some
MAX_LIST_BYTES: Final = 1 << 24
MAX_EVENT_BYTES: Final = 1 << 16
_MAX_CONNECTIONS: Final = 16
_MAX_HEADER_BYTES: Final = 8190
_OK: Final = 200
_NOT_FOUND: Final = 404


class EngineClient:
    """GET requests to the engine that listens on ``socket``; use from one event loop, close at the end."""

    def __init__(self, socket: str, *, timeout_s: float) -> None:
        self.socket = socket
        self.timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get_json(self, path: str, *, limit_bytes: int = MAX_ANSWER_BYTES) -> Any:
        """The parsed answer to ``GET path``.

        Raises:
            ContainerUnknown: 404.
            EngineUnavailable: not reached, not answered within the deadline, or an error of its own.
            EngineInvalid: too large, cut off, or not JSON.
        """
        try:
            async with asyncio.timeout(self.timeout_s), self._get(path) as response:
                body = await self._read(response, limit_bytes)
        except TimeoutError as error:
            raise EngineUnavailable(f"{self.socket}: no answer to {path} within {self.timeout_s} s") from error
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise EngineInvalid(f"{self.socket}: the answer to {path} is not JSON") from error

    @asynccontextmanager
    async def stream_lines(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of an answer that does not end, once its head has arrived.

        Raises:
            EngineUnavailable, EngineInvalid: as :meth:`get_json`; also while iterating, when the stream ends.
        """
        head = asyncio.timeout(self.timeout_s)
        try:
            async with head, self._get(path) as response:
                head.reschedule(None)
                yield self._lines(response, path)
        except TimeoutError as error:
            if not head.expired():
                raise
            raise EngineUnavailable(f"{self.socket}: no answer to {path} within {self.timeout_s} s") from error

    @asynccontextmanager
    async def _get(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._open_session().get(f"http://engine{path}", allow_redirects=False) as response:
                if response.status == _NOT_FOUND:
                    raise ContainerUnknown(f"{self.socket}: {path}")
                if response.status != _OK:
                    raise EngineUnavailable(f"{self.socket}: {path} answered {response.status}")
                yield response
        except aiohttp.ClientPayloadError as error:
            raise EngineInvalid(f"{self.socket}: the answer to {path} was cut off") from error
        except aiohttp.ClientResponseError as error:
            raise EngineInvalid(f"{self.socket}: the answer to {path} is not HTTP") from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise EngineUnavailable(f"{self.socket}: {error}") from error

    async def _read(self, response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit_bytes:
                response.close()
                raise EngineInvalid(f"{self.socket}: an answer is longer than {limit_bytes} bytes")
        return bytes(body)

    async def _lines(self, response: aiohttp.ClientResponse, path: str) -> AsyncIterator[bytes]:
        pending = bytearray()
        async for chunk in response.content.iter_any():
            pending += chunk
            *lines, rest = pending.split(b"\n")
            pending = bytearray(rest)
            if len(pending) > MAX_EVENT_BYTES:
                raise EngineInvalid(f"{self.socket}: a line of {path} is longer than {MAX_EVENT_BYTES} bytes")
            for line in lines:
                yield bytes(line)
        raise EngineUnavailable(f"{self.socket}: {path} ended")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=self.socket, limit=_MAX_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # the deadline stands around each request
                auto_decompress=False,
                trust_env=False,
                max_line_size=_MAX_HEADER_BYTES,
                max_field_size=_MAX_HEADER_BYTES,
            )
        return self._session
