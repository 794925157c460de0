"""Runs a case of the corpus against something that speaks HTTP, and says what came of it."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import hpack
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

from http_corpus import Case, read_frames
from raw_origin import RawOrigin

Connect = Callable[[], AbstractContextManager[socket.socket]]

DEADLINE_S = 8.0
CUT = "cut"
BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def run(case: Case, connect: Connect, origin: RawOrigin, custody: list[tuple[str, str]]) -> str:
    """The verdict, and how many requests arrived."""
    before = len(origin.requests)
    with connect() as connection:
        verdict = talk(connection, case.data(custody), is_h2=case.is_h2)
    arrived = len(origin.requests) - before
    return f"{verdict} x{arrived}" if arrived else verdict


def talk(connection: socket.socket, data: bytes, *, is_h2: bool, step: int | None = None) -> str:
    """What the other side says to ``data``."""
    received, deadline = exchange_all(connection, data, step, _h2_is_over if is_h2 else _never)
    if time.monotonic() >= deadline:
        return "nothing"
    return _h2_verdict(read_frames(received)) if is_h2 else _h1_verdict(received)


def exchange_all(
    connection: socket.socket, data: bytes, step: int | None, is_over: Callable[[bytes], bool]
) -> tuple[bytes, float]:
    """What came back, and when waiting would have ended; it reads while it sends, as a flood is answered at once."""
    received, left, deadline = b"", memoryview(data), time.monotonic() + DEADLINE_S
    connection.setblocking(False)
    with contextlib.suppress(ConnectionError, BrokenPipeError, ssl.SSLError):
        while not is_over(received) and (remaining := deadline - time.monotonic()) > 0:
            waits_for_space = False
            if left:
                try:
                    left = left[connection.send(left[: step or 65536]) :]
                except BLOCKED:
                    waits_for_space = True
                except OSError:
                    left = left[:0]  # it was cut off; what it said before may still be there
            try:
                chunk = connection.recv(65536)
            except BLOCKED:
                if not left or waits_for_space:
                    select.select([connection], [connection] if left else [], [], remaining)
                continue
            if not chunk:
                break
            received += chunk
    return received, deadline


def _never(_received: bytes) -> bool:
    """HTTP/1.1 connections end by themselves: the node's deadlines are short."""
    return False


def _h2_is_over(received: bytes) -> bool:
    return any(
        isinstance(frame, GoAwayFrame)
        or (isinstance(frame, RstStreamFrame) and frame.stream_id == 1)
        or (frame.stream_id == 1 and "END_STREAM" in frame.flags)
        for frame in read_frames(received)
    )


def _h1_verdict(received: bytes) -> str:
    if not received.startswith(b"HTTP/1."):
        return CUT
    head, _, body = received.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1].decode()
    if b"application/problem+json" in head.lower():
        document, _ = json.JSONDecoder().raw_decode(body.decode())
        return f"{status} {document['code']}"
    return status


def _h2_verdict(frames: list[Frame]) -> str:
    decoder = hpack.Decoder()
    fields: dict[str, str] = {}
    for frame in frames:
        if isinstance(frame, HeadersFrame):
            decoded = dict(decoder.decode(frame.data))
            if frame.stream_id == 1 and not fields:
                fields = decoded
    if fields:
        bodies = [frame.data for frame in frames if frame.stream_id == 1 and type(frame).__name__ == "DataFrame"]
        if fields.get("content-type") == "application/problem+json":
            return f"{fields[':status']} {json.loads(b''.join(bodies))['code']}"
        return fields[":status"]
    # Which of reset, goodbye and end gets through depends on timing: a closed socket may take all of them with it.
    return CUT
