"""The SDK without a broker: calls made while a request is served carry that request's handle, and no other's."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from hopseal.errors import DeniedError, HopsealError, InvalidError, UnavailableError
from hopseal.sdk.aiohttp import custody
from hopseal.sdk.asgi import CustodyMiddleware
from hopseal.sdk.client import handle_headers, join_task, out_socket
from hopseal.sdk.context import read_context
from hopseal.sdk.handle import HANDLE_HEADER, current_handle, handle_of_meta, use_handle
from hopseal.sdk.refusals import read_refusal
from hopseal.sdk.tasks import open_task
from hopseal.sdk.wsgi import CustodyMiddleware as WsgiCustodyMiddleware


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
    assert await serve([(b"custody-handle", b"H1")], kind="websocket") == "H1"


class Streaming:
    """A WSGI body that is made while it is read."""

    closed_in: str | None = None

    def __iter__(self) -> Iterator[bytes]:
        yield (current_handle() or "none").encode()
        yield b"."

    def close(self) -> None:
        Streaming.closed_in = current_handle()


@pytest.mark.parametrize(
    ("environ", "handle"),
    [({"HTTP_CUSTODY_HANDLE": "H1"}, "H1"), ({}, "none"), ({"HTTP_CUSTODY_HANDLE": "H1, H2"}, "none")],
)
def test_a_wsgi_body_is_made_under_the_handle_of_its_request(environ, handle) -> None:
    seen: list[str | None] = []

    def application(_environ, _start) -> Streaming:
        seen.append(current_handle())
        return Streaming()

    with use_handle("of another request"):
        body = WsgiCustodyMiddleware(application)(environ, lambda *_: None)
        assert current_handle() == "of another request"
    assert b"".join(body) == f"{handle}.".encode()
    body.close()
    assert [seen[0], Streaming.closed_in] == [None if handle == "none" else handle] * 2
    assert list(WsgiCustodyMiddleware(lambda *_: [b"a", b"b"])(environ, lambda *_: None)) == [b"a", b"b"]


@pytest.mark.parametrize(("headers", "handle"), [({HANDLE_HEADER: "H1"}, "H1"), ({}, None)])
async def test_an_aiohttp_server_serves_each_request_under_its_handle(headers, handle) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=str(current_handle()))

    answer = await custody(make_mocked_request("GET", "/", headers=headers), handler)
    assert answer.text == str(handle)


def test_a_handle_in_the_meta_of_a_message_over_stdio_is_found() -> None:
    assert handle_of_meta({"dev.hopseal/custody-handle": "H1"}) == "H1"
    assert handle_of_meta({"dev.hopseal/custody-handle": 1}) is None
    assert handle_of_meta(None) is None


def test_the_headers_of_the_current_task_are_none_outside_of_one() -> None:
    assert handle_headers() == {}
    with use_handle("H1"):
        assert handle_headers() == {"custody-handle": "H1"}


PROBLEM = {"type": "https://hopseal.dev/errors/x_y", "title": "x y", "status": 403, "code": "x_y"}


@pytest.mark.parametrize(
    ("status", "family"),
    [
        (400, InvalidError), (403, DeniedError), (404, InvalidError), (409, InvalidError), (413, InvalidError),
        (408, UnavailableError), (425, UnavailableError), (428, InvalidError), (429, UnavailableError),
        (431, InvalidError), (500, UnavailableError), (501, InvalidError),
        (502, UnavailableError), (503, UnavailableError), (504, UnavailableError),
    ],
)  # fmt: skip
def test_a_refusal_is_of_the_family_that_its_status_says(status: int, family: type[HopsealError]) -> None:
    refusal = read_refusal(status, "application/problem+json", json.dumps({**PROBLEM, "missing": ["cert:x"]}).encode())
    assert refusal is not None
    assert isinstance(refusal, family)
    assert (refusal.code, refusal.status, refusal.missing) == ("x_y", status, ("cert:x",))


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        (None, json.dumps(PROBLEM)),
        ("application/json", json.dumps(PROBLEM)),
        ("application/problem+json", "no JSON"),
        ("application/problem+json", "[" * 100_000),
        ("application/problem+json", "[]"),
        ("application/problem+json", json.dumps({**PROBLEM, "type": "about:blank"})),
        ("application/problem+json", json.dumps({**PROBLEM, "code": 1})),
        ("application/problem+json", json.dumps({**PROBLEM, "missing": "cert:x"})),
        ("application/problem+json", json.dumps({**PROBLEM, "more": "x" * 70_000})),
    ],
)
def test_what_is_no_problem_document_of_a_broker_is_the_components_own_answer(media_type, body) -> None:
    assert read_refusal(403, media_type, body.encode()) is None


ANSWER = {
    "cid": "c", "hop": 1, "path": ["spiffe://x/a", "spiffe://x/b"], "task": {"id": "t", "pc": None},
    "user": {"iss": "i", "sub": "s", "obo_verified": False}, "authority": {"hops": 2}, "approvals": 0, "expires_at": 9,
}  # fmt: skip


def test_the_caller_is_the_last_of_the_path() -> None:
    context = read_context(ANSWER)
    assert (context.caller, context.path[0], context.hop) == ("spiffe://x/b", "spiffe://x/a", 1)
    assert context.user is not None
    assert context.user.is_verified is False


@pytest.mark.parametrize(
    "change",
    [{"cid": 1}, {"hop": True}, {"path": "x"}, {"path": [1]}, {"task": None}, {"user": []}, {"user": {"iss": "i"}},
     {"authority": None}, {"expires_at": None}],
)  # fmt: skip
def test_an_answer_of_another_form_is_not_guessed_at(change) -> None:
    with pytest.raises(UnavailableError, match="broker_answer_invalid"):
        read_context({**ANSWER, **change})


def test_a_purpose_needs_a_task() -> None:
    with pytest.raises(InvalidError, match="task_id"):
        open_task(purpose="support")


@pytest.mark.parametrize("module", ["httpx", "httpx2", "aiohttp"])
def test_a_library_that_is_not_installed_is_named_with_its_extra(module: str) -> None:
    code = f"import sys; sys.modules['{module}'] = None; import hopseal.sdk.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'hopseal[{module}]'" in done.stderr


def test_the_sdk_itself_needs_none_of_them() -> None:
    modules = "tasks, context, refusals, asgi, wsgi, client, handle"
    code = f"import sys; from hopseal.sdk import {modules}; print({{'httpx', 'httpx2', 'aiohttp'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


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
