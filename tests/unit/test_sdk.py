"""The SDK: calls made while a request is served carry that request's handle, and no other's."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from hopseal.sdk.asgi import CustodyMiddleware
from hopseal.sdk.client import join_task, out_socket
from hopseal.sdk.handle import HANDLE_HEADER, current_handle, use_handle


async def serve(headers: list[tuple[bytes, bytes]], kind: str = "http") -> str | None:
    seen: list[str | None] = []

    async def application(scope, receive, send) -> None:
        await asyncio.sleep(0)
        seen.append(current_handle())

    await CustodyMiddleware(application)({"type": kind, "headers": headers}, None, None)
    return seen[0]


@pytest.mark.parametrize(
    ("headers", "handle"),
    [
        ([(b"custody-handle", b"H1")], "H1"),
        ([(b"Custody-Handle", b"H1"), (b"x", b"y")], "H1"),
        ([], None),
        ([(b"custody-handle", b"H1"), (b"custody-handle", b"H2")], None),
    ],
)
async def test_the_handle_of_the_request_is_the_current_one(headers, handle) -> None:
    with use_handle("of another request"):
        assert await serve(headers) == handle
        assert current_handle() == "of another request"


async def test_requests_served_at_once_keep_their_own_handles() -> None:
    found = await asyncio.gather(*[serve([(b"custody-handle", str(n).encode())]) for n in range(20)])
    assert found == [str(n) for n in range(20)]


async def test_what_is_no_http_request_has_no_handle() -> None:
    assert await serve([(b"custody-handle", b"H1")], kind="lifespan") is None


async def sent_with(headers: dict[str, str]) -> str | None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get(HANDLE_HEADER))
        return httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), event_hooks={"request": [join_task]}) as client:
        await client.get("http://a.b/", headers=headers)
    return seen[0]


async def test_a_call_carries_the_current_handle_unless_it_has_one() -> None:
    assert await sent_with({}) is None
    with use_handle("H1"):
        assert await sent_with({}) == "H1"
        assert await sent_with({"Custody-Handle": "H2"}) == "H2"


def test_the_socket_is_the_default_unless_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOPSEAL_OUT_SOCKET", raising=False)
    assert out_socket() == "/run/hopseal/call/out.sock"
    monkeypatch.setenv("HOPSEAL_OUT_SOCKET", "/x/out.sock")
    assert out_socket() == "/x/out.sock"
