"""The SDK on a real data plane: tasks, calls, what a component learns of its caller, and refusals."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dataplane_chain import three_in_a_row
from dataplane_nodes import Node, Seen, answer, spiffe_id
from hopseal.custody.record import parse_sealed_record
from hopseal.errors import DeniedError, InvalidError, UnavailableError
from hopseal.log.entries import RecordEntry
from hopseal.sdk.aiohttp import broker_connector, join_task, raise_refusals
from hopseal.sdk.asgi import CONTEXT_KEY, CustodyMiddleware
from hopseal.sdk.context import CallContext, User, async_call_context, call_context
from hopseal.sdk.handle import HANDLE_HEADER, current_handle, use_handle
from hopseal.sdk.httpx import AsyncBrokerTransport, BrokerTransport
from hopseal.sdk.httpx2 import AsyncBrokerTransport as AsyncBrokerTransport2
from hopseal.sdk.httpx2 import BrokerTransport as BrokerTransport2
from hopseal.sdk.refusals import CallDeniedError, CallInvalidError, CallRefusedError
from hopseal.sdk.tasks import open_task, resume_task, task
from oauth_server import issuers_json

TOOL = "http://tool.crm/mcp"


@dataclass
class Scene:
    """The orchestrator runs in the test; ``think`` is what the reasoner does while it serves a call."""

    a: Node
    b: Node
    c: Node
    user_token: str
    think: Callable[[], object] = call_context
    thoughts: list[object] = field(default_factory=list)

    def ask_reasoner(self) -> httpx.Response:
        with httpx.Client(transport=BrokerTransport(str(self.a.out))) as client:
            return client.post("http://reasoner.crm/think", content=b"{}")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with three_in_a_row(tmp_path) as row:
        for node in (row.a, row.b, row.c):
            node.plane.set_issuers(issuers_json(row.auth))
        client = spiffe_id("orchestrator")
        made = Scene(row.a, row.b, row.c, row.auth.exchange(row.auth.log_in("alice", client), client))

        def respond(handler, seen: Seen) -> None:
            monkeypatch.setenv("HOPSEAL_OUT_SOCKET", str(row.b.out))
            with use_handle(seen.header(HANDLE_HEADER)):
                made.thoughts.append(made.think())
            answer(handler, b"thought")

        row.reasoner.respond = respond
        monkeypatch.setenv("HOPSEAL_OUT_SOCKET", str(row.a.out))
        yield made


def received(node: Node) -> list[tuple[str, int]]:
    """(chain, hop) of every call that the node's component got."""
    sealed = (parse_sealed_record(each.sealed) for each in node.log().entries if isinstance(each, RecordEntry))
    return [(each.record.cid, each.record.hop) for each in sealed]


def test_a_component_learns_its_caller_the_task_and_on_whose_behalf(scene: Scene) -> None:
    with task("case-1", purpose="support", user_token=scene.user_token) as opened:
        assert scene.ask_reasoner().status_code == 200
    (seen,) = scene.thoughts
    assert isinstance(seen, CallContext)
    assert (seen.caller, seen.path, seen.hop) == (spiffe_id("orchestrator"), (spiffe_id("orchestrator"),), 0)
    assert (seen.chain, seen.task, seen.purpose) == (opened.chain, "case-1", "support")
    assert seen.user == User("https://as.example.org", "alice", is_verified=True)
    assert current_handle() is None


def test_a_task_of_ones_own_has_no_caller(scene: Scene) -> None:
    with task():
        own = call_context()
    assert (own.caller, own.path, own.hop, own.user) == (None, (), None, None)


def test_a_task_takes_away_authority_and_a_resumed_one_keeps_its_task(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with task("case-2", authority={"hops": 1}) as opened:
        assert call_context().authority["hops"] == 1
        scene.think = lambda: None
        scene.ask_reasoner()
        monkeypatch.setenv("HOPSEAL_OUT_SOCKET", str(scene.a.out))
        resumed = resume_task()
    assert (resumed.id, resumed.chain == opened.chain) == ("case-2", False)


def call_with_httpx() -> int:
    with httpx.Client(transport=BrokerTransport()) as client:
        return client.post(TOOL, content=b"{}").status_code


def call_with_httpx2() -> int:
    with httpx2.Client(transport=BrokerTransport2()) as client:
        return client.post(TOOL, content=b"{}").status_code


def call_with_async_httpx() -> int:
    async def run() -> int:
        async with httpx.AsyncClient(transport=AsyncBrokerTransport()) as client:
            return (await client.post(TOOL, content=b"{}")).status_code

    return asyncio.run(run())


def call_with_async_httpx2() -> int:
    async def run() -> int:
        async with httpx2.AsyncClient(transport=AsyncBrokerTransport2()) as client:
            return (await client.post(TOOL, content=b"{}")).status_code

    return asyncio.run(run())


def call_with_aiohttp() -> int:
    async def run() -> int:
        async with (
            aiohttp.ClientSession(connector=broker_connector(), middlewares=[join_task]) as session,
            session.post(TOOL, data=b"{}") as response,
        ):
            await response.read()
            return response.status

    return asyncio.run(run())


def call_in_a_thread() -> int:
    found: list[int] = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(lambda: found.append(call_with_httpx()),))
    thread.start()
    thread.join()
    return found[0]


def call_in_a_worker_thread_of_the_loop() -> int:
    async def run() -> int:
        return await asyncio.to_thread(call_with_httpx)

    return asyncio.run(run())


def call_in_a_background_task() -> int:
    async def run() -> int:
        async with httpx.AsyncClient(transport=AsyncBrokerTransport()) as client:
            background = asyncio.create_task(client.post(TOOL, content=b"{}"))
            with use_handle("not this one"):
                return (await background).status_code

    return asyncio.run(run())


@pytest.mark.parametrize(
    "call",
    [
        call_with_httpx,
        call_with_httpx2,
        call_with_async_httpx,
        call_with_async_httpx2,
        call_with_aiohttp,
        call_in_a_thread,
        call_in_a_worker_thread_of_the_loop,
        call_in_a_background_task,
    ],
)
def test_a_call_made_while_serving_continues_the_chain(scene: Scene, call: Callable[[], int]) -> None:
    scene.think = call
    with task() as opened:
        scene.ask_reasoner()
    assert scene.thoughts == [200]
    assert received(scene.c) == [(opened.chain, 1)]


def test_outside_a_request_the_reasoner_may_not_begin_a_task(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPSEAL_OUT_SOCKET", str(scene.b.out))
    with pytest.raises(CallDeniedError, match="may_not_start") as refused:
        open_task()
    assert isinstance(refused.value, DeniedError)
    assert (refused.value.status, "mayStart" in refused.value.remedy) == (403, True)


def test_a_handle_that_is_nobodys_is_refused_as_invalid(scene: Scene) -> None:
    with pytest.raises(CallInvalidError, match="handle_unknown"):
        call_context("A" * 22)
    with pytest.raises(InvalidError, match="handle_missing"):
        call_context()


def test_without_a_broker_the_error_names_the_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOPSEAL_OUT_SOCKET", str(tmp_path / "none.sock"))
    with pytest.raises(UnavailableError, match="broker_unreachable") as failed:
        open_task()
    assert "HOPSEAL_OUT_SOCKET" in failed.value.remedy


def test_transports_raise_refusals_only_where_that_is_asked_for(scene: Scene) -> None:
    url = "http://nobody.crm/x"
    with httpx.Client(transport=BrokerTransport()) as client:
        assert client.get(url).json()["code"] == "unknown_peer"
    with httpx.Client(transport=BrokerTransport(raise_refusals=True)) as client:
        with pytest.raises(CallRefusedError, match="unknown_peer"):
            client.get(url)
        assert client.post("http://reasoner.crm/think", content=b"{}").status_code == 200

    async def run() -> None:
        async with httpx.AsyncClient(transport=AsyncBrokerTransport(raise_refusals=True)) as client:
            with pytest.raises(CallRefusedError, match="unknown_peer"):
                await client.get(url)
        async with aiohttp.ClientSession(
            connector=broker_connector(), middlewares=[join_task, raise_refusals]
        ) as session:
            with pytest.raises(CallRefusedError, match="unknown_peer"):
                await session.get(url)

    scene.think = lambda: None
    asyncio.run(run())


async def test_an_application_that_requires_context_refuses_what_did_not_come_through_the_broker(scene: Scene) -> None:
    async def caller(request: Request) -> JSONResponse:
        return JSONResponse({"caller": request.scope[CONTEXT_KEY].caller, "again": (await async_call_context()).caller})

    application = CustodyMiddleware(Starlette(routes=[Route("/", caller)]), require_context=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://localhost") as client:
        opened = await asyncio.to_thread(open_task)
        assert (await client.get("/", headers={HANDLE_HEADER: opened.handle})).json() == {"caller": None, "again": None}
        for headers, code in (({}, "handle_missing"), ({HANDLE_HEADER: "A" * 22}, "handle_unknown")):
            refused = await client.get("/", headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, code)
        scene.a.stop()
        away = await client.get("/", headers={HANDLE_HEADER: opened.handle})
        assert (away.status_code, away.json()["code"]) == (503, "broker_unreachable")
