"""A daemon's admin socket for tests of the command line: real HTTP on a real Unix socket, answers from a table."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

Answer = tuple[int, Any]


@dataclass
class FakeDaemon:
    """Answers ``METHOD path`` by ``answers``; 404 as the daemons do for everything else."""

    socket: Path
    answers: dict[str, Answer]
    asked: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        key = f"{request.method} {request.path}"
        self.asked.append((key, {name: request.query.getall(name) for name in request.query}))
        self.bodies.append(await request.read())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        status, answer = self.answers.get(key, (404, {"code": "not_found", "message": "no such path", "remedy": ""}))
        if callable(answer):
            made: web.Response = answer()
            return made
        return web.json_response(answer, status=status)


@contextmanager
def fake_daemon(socket: Path, answers: dict[str, Answer]) -> Iterator[FakeDaemon]:
    """A running daemon."""
    daemon = FakeDaemon(socket, answers)
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", daemon.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(socket)).start()
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield daemon
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
