"""A loopback HTTP proxy for one process tree, whose far side is the broker's call socket.

Owns: who may connect, one request on each connection, and copying bytes. Does not own: HTTP beyond the first head
(``heads``): what follows it goes to the broker and back as it is, so that there is one parser.

A connection carries one request. So nothing has to be known about where a body ends, and a second request cannot
be mistaken for part of the first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from hopseal.custody.errors import PROBLEM_TYPE_BASE
from hopseal.errors import HopsealError, InvalidError, UnavailableError
from hopseal.running.heads import END_OF_HEAD, Head, format_head, parse_head
from hopseal.sdk.refusals import PROBLEM_MEDIA_TYPE, CallRefusedError, read_refusal

HEAD_TIMEOUT_S = 30.0
MAX_CONNECTIONS = 256
_CHUNK_BYTES = 1 << 16

Admits = Callable[[tuple[str, int], tuple[str, int]], Awaitable[bool]]
Reports = Callable[[Head, HopsealError], None]


class Handles(Protocol):
    """Says which task a call belongs to."""

    async def handle(self) -> str | None:
        """The handle for a call that begins now, or None for a task of its own."""


class Bridge:
    """Serves connections of a listening socket.

    Args:
        out_socket: path of the broker's call socket.
        handles: the task of the calls.
        admits: whether a connection, by our end and its other one, comes from the tree.
        reports: told of each call that was refused.
    """

    def __init__(self, out_socket: str, handles: Handles, admits: Admits, reports: Reports) -> None:
        self._out_socket = out_socket
        self._handles = handles
        self._admits = admits
        self._reports = reports
        self._serving: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; a callback of ``asyncio.start_server`` with ``limit=MAX_HEAD_BYTES``."""
        task = asyncio.current_task()
        assert task is not None  # callbacks of a server run in tasks
        self._serving.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        except asyncio.CancelledError:
            if not self._is_closed:  # else the end of the run, which nobody has to be told of
                raise
        finally:
            self._serving.discard(task)
            writer.close()

    async def aclose(self) -> None:
        """End every call: the program is gone."""
        self._is_closed = True
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near, far = writer.get_extra_info("sockname")[:2], writer.get_extra_info("peername")[:2]
        if len(self._serving) > MAX_CONNECTIONS or not await self._admits(near, far):
            # Nothing is said to strangers, not even what this is.
            return
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                head = parse_head(await reader.readuntil(END_OF_HEAD))
        except asyncio.LimitOverrunError:
            await _answer(writer, 431, "head_too_large", "the header list is too large")
            return
        except InvalidError as error:
            await _answer(writer, 400, error.code, error.message)
            return
        try:
            handle = None if head.handle else await self._handles.handle()
            out_reader, out_writer = await self._connect()
        except CallRefusedError as error:
            self._reports(head, error)
            await _answer(writer, error.status, error.code, error.message)
            return
        except UnavailableError as error:
            self._reports(head, error)
            await _answer(writer, 503, error.code, error.message)
            return
        try:
            out_writer.write(format_head(head, handle))
            await self._relay((reader, writer), (out_reader, out_writer), head)
        finally:
            out_writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_unix_connection(self._out_socket)
        except OSError as error:
            raise UnavailableError(
                "broker_unreachable",
                "the broker does not answer",
                detail=str(error),
                remedy="start it (hopseal up, or hopseal broker run), or name its socket in HOPSEAL_OUT_SOCKET",
            ) from error

    async def _relay(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        head: Head,
    ) -> None:
        """Copies until the broker has answered; a client that goes away ends the call."""
        upload = asyncio.create_task(_copy(near[0], far[1]))
        try:
            first = await far[0].read(_CHUNK_BYTES)
            refusal = find_refusal(first)
            if refusal is not None:
                self._reports(head, refusal)
            near[1].write(first)
            await _copy(far[0], near[1])
        finally:
            upload.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await upload


def find_refusal(first: bytes) -> CallRefusedError | None:
    """The refusal in the first bytes of an answer, for the operator; None if it is none or not whole."""
    head, end, body = first.partition(END_OF_HEAD)
    line, *fields = head.split(b"\r\n")
    media = [field.partition(b":")[2].strip() for field in fields if field.lower().startswith(b"content-type:")]
    status = line.split(b" ", 2)[1:2]
    if not end or media != [PROBLEM_MEDIA_TYPE.encode()] or not status or not status[0].isdigit():
        return None
    return read_refusal(int(status[0]), PROBLEM_MEDIA_TYPE, body)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _answer(writer: asyncio.StreamWriter, status: int, code: str, title: str) -> None:
    body = json.dumps({"type": PROBLEM_TYPE_BASE + code, "title": title, "status": status, "code": code}).encode()
    head = (
        f"HTTP/1.1 {status} refused\r\nContent-Type: {PROBLEM_MEDIA_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
