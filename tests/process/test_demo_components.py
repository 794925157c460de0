"""The demo's components as real processes, with a plain forwarder where the broker will be."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp import ClientSession, UnixConnector, web

from demo.components.data import CHANGED_RULE, write_database, write_orchestrator_files, write_reasoner_files
from waiting import async_wait_until

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = {
    "orchestrator": ["--factory", "demo.components.orchestrator:make_app"],
    "reasoner": ["--factory", "demo.components.reasoner:make_app"],
    "crm-connector": ["demo.components.connector:app"],
}


class Forwarder:
    """Hands each request to the socket of the component that its Host names, with a handle of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.calls: list[tuple[str, str, str | None]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        component = request.host.partition(".")[0]
        self.calls.append((component, request.path, request.headers.get("Custody-Handle")))
        headers = {
            key: value for key, value in request.headers.items() if key.lower() not in {"host", "custody-handle"}
        }
        headers |= {"Host": "localhost:8000", "Custody-Handle": f"handle-of-{component}"}
        url = f"http://localhost{request.path_qs}"
        async with (
            ClientSession(
                connector=UnixConnector(str(self._folder / f"{component}.sock")), auto_decompress=False
            ) as to,
            to.request(request.method, url, headers=headers, data=await request.read()) as answer,
        ):
            response = web.StreamResponse(status=answer.status, headers=answer.headers)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response


@asynccontextmanager
async def running(name: str, folder: Path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOPSEAL_OUT_SOCKET": str(folder / "out.sock"),
        "CRM_DATABASE": str(folder / "crm.sqlite"),
        "REASONER_CONFIG": str(folder),
        "ORCHESTRATOR_CONFIG": str(folder),
    }
    socket = folder / f"{name}.sock"
    command = [sys.executable, "-m", "uvicorn", "--uds", str(socket), "--log-level", "warning", *COMPONENTS[name]]
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        await async_wait_until(socket.exists, timeout_s=30, what=f"{name} listens")
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_database(tmp_path / "crm.sqlite")
    write_reasoner_files(tmp_path)
    write_orchestrator_files(tmp_path)
    return tmp_path


@asynccontextmanager
async def agent(folder: Path):
    forwarder = Forwarder(folder)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", forwarder.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "out.sock")).start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        await asyncio.gather(*[stack.enter_async_context(running(name, folder)) for name in COMPONENTS])
        yield forwarder


async def ask(folder: Path, question: str) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(folder / "out.sock"))
    async with httpx.AsyncClient(transport=transport, timeout=30) as client:
        return await client.post("http://orchestrator.crm-assistant/task", json={"question": question})


async def test_a_task_runs_across_the_three_components_and_every_call_carries_its_handle(folder: Path) -> None:
    async with agent(folder) as forwarder:
        answer = await ask(folder, "What next for account Acme?")
    assert answer.status_code == 200
    assert answer.json() == {"account": "Acme", "next_step": "book a review with the account's executives"}
    callers = {(component, handle) for component, _, handle in forwarder.calls}
    assert callers == {
        ("orchestrator", None),
        ("reasoner", "handle-of-orchestrator"),
        ("crm-connector", "handle-of-reasoner"),
        ("crm-connector", "handle-of-orchestrator"),
    }
    with sqlite3.connect(folder / "crm.sqlite") as database:
        kept = database.execute("SELECT next_step FROM accounts WHERE name = 'Acme'").fetchone()
    assert kept == ("book a review with the account's executives",)


async def test_a_changed_prompt_changes_what_the_agent_does(folder: Path) -> None:
    prompt = folder / "prompt.md"
    prompt.write_text(prompt.read_text().replace("- over 10000", CHANGED_RULE + "- over 500000"))
    async with agent(folder):
        answer = await ask(folder, "What next for account Globex?")
    assert "discount of 90 percent" in answer.json()["next_step"]


async def test_a_refused_peer_is_named_with_its_code(folder: Path) -> None:
    app = web.Application()

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(
            status=503, body=json.dumps({"code": "callee_unavailable"}), content_type="application/problem+json"
        )

    app.router.add_route("*", "/{tail:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "out.sock")).start()
    try:
        async with running("orchestrator", folder):
            transport = httpx.AsyncHTTPTransport(uds=str(folder / "orchestrator.sock"))
            async with httpx.AsyncClient(transport=transport) as client:
                answer = await client.post("http://localhost/task", json={"question": "account Acme?"})
    finally:
        await runner.cleanup()
    assert answer.status_code == 502
    assert answer.json() == {"peer": "reasoner", "code": "callee_unavailable"}
