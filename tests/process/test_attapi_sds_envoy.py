"""Real Envoys take their certificates from the attestor, and serve with them through rotations until withdrawal."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from attestor_daemon import Daemon
from envoy_sds import (
    EnvoyHome,
    client_tls,
    cluster,
    free_port,
    get,
    listener,
    one_call_each,
    server_tls,
    tcp,
)
from waiting import async_wait_until

CLIENT_UID, SERVER_UID, STRANGER_UID = 24301, 24302, 24303
CLIENT_ID = "spiffe://example.org/agents/mesh/client"
SERVER_ID = "spiffe://example.org/agents/mesh/server"
TTL_S = 10


def document(exe: str) -> str:
    components = "".join(
        f"""
    - name: {name}
      role: connector
      svid: workload-api
      x509SvidTtlSeconds: {TTL_S}
      attest: {{uid: {uid}, exe: ['{exe}']}}"""
        for name, uid in (("client", CLIENT_UID), ("server", SERVER_UID))
    )
    return f"""\
apiVersion: hopseal.dev/v1alpha1
kind: Agent
metadata: {{name: mesh}}
spec:
  owner: someone@example.org
  components:{components}
"""


@contextmanager
def origin() -> Iterator[int]:
    """A plain HTTP server, the application behind the second Envoy."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Mesh:
    port: int
    client_log: Path
    server_log: Path


@contextmanager
def mesh(home: EnvoyHome, *, server_id: str = SERVER_ID, client_uid: int = CLIENT_UID) -> Iterator[Mesh]:
    """Plain HTTP into the first Envoy, mutual TLS to the second, plain HTTP to the origin."""
    entry, between = free_port(), free_port()
    with ExitStack() as stack:
        behind = stack.enter_context(origin())
        server_log = stack.enter_context(
            home.running(
                SERVER_UID,
                "server",
                listeners=[listener(tcp(between), "origin", server_tls(CLIENT_ID))],
                clusters=[cluster("origin", tcp(behind), None, http2=False)],
            )
        )
        client_log = stack.enter_context(
            home.running(
                client_uid,
                "client",
                listeners=[listener(tcp(entry), "peer", None)],
                clusters=[one_call_each(cluster("peer", tcp(between), client_tls(CLIENT_ID, server_id), http2=False))],
            )
        )
        yield Mesh(entry, client_log, server_log)


async def status_of_call(port: int) -> int:
    return await asyncio.to_thread(get, port)


async def wait_for_service(found: Mesh) -> None:
    async def serves() -> bool:
        return await status_of_call(found.port) == 200

    await async_wait_until(serves, timeout_s=30, what="a first call through both Envoys")


@pytest.fixture
def daemon(open_folder: Path) -> Daemon:
    return Daemon(open_folder)


@pytest.fixture
def home(daemon: Daemon) -> EnvoyHome:
    made = EnvoyHome(daemon.folder, daemon.workload)
    daemon.write(document(made.digest))
    return made


async def test_envoys_serve_through_rotations_without_a_failed_call_and_stop_after_a_withdrawal(daemon, home):
    async with daemon.running():
        with mesh(home) as found:
            await wait_for_service(found)
            statuses, expiries = [], set()
            loop = asyncio.get_running_loop()
            ends_at = loop.time() + 2 * TTL_S
            while loop.time() < ends_at:
                statuses.append(await status_of_call(found.port))
                expiries.add((await daemon.component("mesh/server"))["instances"][0]["svid_expires_at"])
                await asyncio.sleep(0.02)
            assert set(statuses) == {200}
            assert len(statuses) > 100
            assert len(expiries) >= 3
            for log in (found.client_log, found.server_log):
                assert "rejected" not in log.read_text()

            assert (await daemon.ask("/v1/agents/mesh/suspend", "POST"))[0] == 200
            shown = await daemon.component("mesh/server")
            assert shown["state"] == "suspended"

            async def is_cut_off() -> bool:
                return await status_of_call(found.port) == 503

            await async_wait_until(is_cut_off, timeout_s=TTL_S + 5, what="the last certificate to expire")


async def test_a_peer_with_another_identity_is_no_peer(daemon, home):
    async with daemon.running():
        with mesh(home, server_id="spiffe://example.org/agents/mesh/other") as found:

            async def is_refused() -> bool:
                return await status_of_call(found.port) == 503

            await async_wait_until(is_refused, timeout_s=30)
            await async_wait_until(lambda: _has_svid(daemon, "mesh/client"), timeout_s=30)
            await asyncio.sleep(0.5)
            assert await status_of_call(found.port) == 503


async def test_an_envoy_of_another_user_gets_no_certificate(daemon, home):
    async with daemon.running():
        with mesh(home, client_uid=STRANGER_UID) as found:
            await async_wait_until(lambda: _has_svid(daemon, "mesh/server"), timeout_s=30)
            await async_wait_until(
                lambda: "no identity issued" in found.client_log.read_text(), timeout_s=30, what="Envoy to be refused"
            )
            assert await status_of_call(found.port) in {0, 503}


async def _has_svid(daemon: Daemon, name: str) -> bool:
    instances = (await daemon.component(name))["instances"]
    return any(each["svid_expires_at"] for each in instances)
