"""Keys of issuers: from files and over HTTP, when they change, when they cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.issuers import MAX_KEY_SET_BYTES, IssuerKeys, fetch_key_set
from broker.user_config import IssuerConfig
from hopseal.custody.usertoken import TokenType
from hopseal.errors import HopsealError
from oauth_server import Served
from vectors import tokens
from waiting import async_wait_until

FILE = IssuerConfig("https://tts.example", TokenType.TRANSACTION, ("a",), Path("/nowhere"))


@contextlib.asynccontextmanager
async def following(*configs: IssuerConfig, early_s: float = 0.0) -> AsyncIterator[IssuerKeys]:
    keys = IssuerKeys(configs, random.Random(0), early_s=early_s)
    task = asyncio.create_task(keys.run())
    try:
        yield keys
    finally:
        task.cancel()
        await asyncio.wait({task})


def of_url(served: Served, **changes: object) -> IssuerConfig:
    return replace(IssuerConfig("i", TokenType.ACCESS, ("a",), f"{served.url}/jwks"), **changes)


def kids(keys: IssuerKeys) -> list[str] | None:
    key_set = keys.current.value[0].key_set
    return [key["kid"] for key in key_set["keys"]] if key_set else None


async def wait_for_kids(keys: IssuerKeys, expected: list[str] | None) -> None:
    await async_wait_until(lambda: kids(keys) == expected, what=f"keys {expected}")


async def test_a_file_is_read_and_followed(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(tokens.key_set()))
    async with following(replace(FILE, source=path)) as keys:
        await wait_for_kids(keys, ["es", "rs", "ed"])
        assert keys.problems() == []
        path.write_text(json.dumps({"keys": [tokens.jwk("new", tokens.ec_key())]}))
        await wait_for_kids(keys, ["new"])


@pytest.mark.parametrize("bad", ["", "{}", '{"keys":[]}', "x" * (MAX_KEY_SET_BYTES + 1), None])
async def test_a_bad_file_leaves_the_keys_in_force_and_health_says_so(tmp_path: Path, bad: str | None) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [tokens.jwk("old", tokens.ec_key())]}))
    async with following(replace(FILE, source=path)) as keys:
        await wait_for_kids(keys, ["old"])
        path.unlink() if bad is None else path.write_text(bad)
        await async_wait_until(keys.problems, what="a problem")
        assert kids(keys) == ["old"]
        assert "https://tts.example" in keys.problems()[0]
        assert "no keys" not in keys.problems()[0]
        path.write_text(json.dumps({"keys": [tokens.jwk("old", tokens.ec_key())]}))
        await async_wait_until(lambda: not keys.problems(), what="no problem")


async def test_without_any_keys_health_says_that_tokens_are_refused(tmp_path: Path) -> None:
    async with following(replace(FILE, source=tmp_path / "none")) as keys:
        await async_wait_until(lambda: "No such file" in "".join(keys.problems()), what="the reason")
        assert "it has no keys, and its tokens are refused" in keys.problems()[0]
        assert keys.current.value[0].to_json()["keys"] == 0


async def test_a_url_is_fetched_and_fetched_again() -> None:
    with Served() as served:
        async with following(of_url(served, refresh_s=1.0)) as keys:
            await wait_for_kids(keys, ["key-1"])
            served.server.rotate("key-2")
            await wait_for_kids(keys, ["key-2"])
            assert served.fetches >= 2


async def test_an_unknown_key_causes_one_early_fetch_however_many_ask() -> None:
    with Served() as served:
        async with following(of_url(served), early_s=0.2) as keys:
            await wait_for_kids(keys, ["key-1"])
            version = keys.current.version
            served.server.rotate("key-2")
            for _ in range(50):
                keys.look_for_newer("i", "at")
            await wait_for_kids(keys, ["key-2"])
            assert served.fetches == 2
            assert keys.current.version == version + 1
            keys.look_for_newer("i", "txn")
            keys.look_for_newer("other", "at")
            await asyncio.sleep(0.3)
            assert served.fetches == 2


async def test_a_failing_issuer_leaves_the_keys_in_force_until_they_are_too_old() -> None:
    with Served() as served:
        async with following(of_url(served, refresh_s=1.0, max_age_s=2.0)) as keys:
            await wait_for_kids(keys, ["key-1"])
            served.fail = True
            await async_wait_until(keys.problems, what="a problem")
            assert kids(keys) == ["key-1"]
            assert "it answers 500" in keys.problems()[0]
            await wait_for_kids(keys, None)
            assert "its tokens are refused" in keys.problems()[0]
            served.fail = False
            await wait_for_kids(keys, ["key-1"])
            assert keys.problems() == []


@contextlib.contextmanager
def answering(respond: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                respond(self)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/jwks"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def without_end(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 65_536)


def silent(handler: http.server.BaseHTTPRequestHandler) -> None:
    threading.Event().wait(1)


def elsewhere(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "http://127.0.0.1:1/")
    handler.end_headers()


@pytest.mark.parametrize(
    ("respond", "code", "detail"),
    [
        (without_end, "jwks_invalid", ""),
        (silent, "jwks_unavailable", "TimeoutError"),
        (elsewhere, "jwks_unavailable", "it answers 302"),
    ],
)
async def test_an_issuer_that_misbehaves_is_given_up(respond: Callable, code: str, detail: str) -> None:
    with answering(respond) as url:
        with pytest.raises(HopsealError) as caught:
            await fetch_key_set(url, None, timeout_s=0.5)
        assert caught.value.code == code
        assert detail in caught.value.detail


async def test_an_absent_issuer_and_an_absent_file_of_authorities_are_unavailable(tmp_path: Path) -> None:
    for url, ca_file in (("http://127.0.0.1:1/", None), ("https://127.0.0.1:1/", tmp_path / "none.pem")):
        with pytest.raises(HopsealError) as caught:
            await fetch_key_set(url, ca_file, timeout_s=2)
        assert caught.value.code == "jwks_unavailable"


async def test_a_broken_file_of_authorities_is_unavailable_too(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(HopsealError) as caught:
        await fetch_key_set("https://127.0.0.1:1/", path, timeout_s=2)
    assert caught.value.code == "jwks_unavailable"
