"""The broker's question to the attestor's ``connect.sock``, and answers of all kinds."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from broker.tcp_callees import NoListenerError, find_tcp_listener
from hopseal.errors import UnavailableError


async def asked(path: Path, answer: bytes, fds: int = 0) -> int:
    """What the broker makes of ``answer``."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> bytes:
            with listening.accept()[0] as connection:
                request = connection.recv(512)
                socket.send_fds(connection, [answer or b"\n"], [listening.fileno()] * fds)
                return request

        served = asyncio.create_task(asyncio.to_thread(serve))
        try:
            return (await find_tcp_listener(path, "crm/store")).pidfd_inode
        finally:
            assert await served == b'{"component": "crm/store"}\n'


async def test_the_process_that_answers_is_named_and_the_connection_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert await asked(tmp_path / "connect.sock", b'{"pidfd_inode": 9, "pid": 7}\n', fds=2) == 9
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_refusal_keeps_the_attestors_code(tmp_path: Path) -> None:
    with pytest.raises(NoListenerError) as caught:
        await asked(tmp_path / "connect.sock", b'{"refused": "listener_foreign", "detail": "x"}\n')
    assert caught.value.code == "listener_foreign"


@pytest.mark.parametrize("answer", [b"x", b"[]", b"", b"{"])
async def test_what_is_no_answer_makes_the_attestor_unavailable(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(UnavailableError) as caught:
        await asked(tmp_path / "connect.sock", answer)
    assert caught.value.code == "attestor_unavailable"


async def test_an_attestor_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        await find_tcp_listener(tmp_path / "nobody.sock", "crm/store")
