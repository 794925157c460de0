"""Where custody ends, through a whole broker: documents, policies, settings and routes of files, real components."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from click.testing import CliRunner

from attestor_double import AttestorDouble
from bench.envoy import free_port
from broker_parts import DOCUMENT
from broker_process import BrokerProcess, ComponentProcess
from dataplane_peer import http_request, send
from hopseal.cli.main import cli
from hopseal.log.entries import CallEntry, StatementEntry, StatementKind
from hopseal.log.reader import read_log
from outside_servers import Echo, PlainPeer, Service, WebAuthority
from svid_authority import Authority
from waiting import async_wait_until

FRONT = "spiffe://example.org/agents/crm/front"
STORE = "spiffe://example.org/agents/crm/store"
LEDGER = "spiffe://example.org/ledger"
CALLS = """\
        - {{external: "localhost:{web}", operations: [POST /v1/*], sensitivity: confidential}}
        - {{external: "localhost:{echo}", opaque: true}}
        - {{to: "spiffe://example.org/ledger", name: ledger, custody: none}}
"""


def document(folder: Path, web: int, echo: int) -> str:
    text = DOCUMENT.replace("LISTEN", str(folder / "store.sock"))
    head, marker, rest = text.partition("    - name: store\n")
    accept = "      acceptFrom: [\n        {id: 'spiffe://example.org/edge/*', custody: none},\n        'FRONT']\n"
    return head + CALLS.format(web=web, echo=echo) + marker + rest + accept.replace("FRONT", FRONT)


class Whole:
    """A broker, an attestor's double, two components; the authority of all SVIDs is the double's."""

    def __init__(self, folder: Path, text: str, **changes: str) -> None:
        self.double = AttestorDouble(folder)
        self.broker = BrokerProcess(folder, **changes)
        (folder / "agents" / "crm.yaml").write_text(text)
        self.store, self.front = ComponentProcess(folder / "store.sock"), ComponentProcess()

    @property
    def authority(self) -> Authority:
        return self.double.authority

    def entries(self) -> tuple[object, ...]:
        return read_log((self.broker.folder / "state" / "log" / "custody.log").read_bytes()).entries

    async def call(self, host: str, path: str = "/v1/chat", **options: object) -> tuple[int, str]:
        answer = await asyncio.to_thread(self.front.call, self.broker.out, host, path, **options)
        assert "error" not in answer, answer
        return answer["status"], answer["body"]


async def check_tree(node: Whole) -> None:
    """The Merkle log, made of the data plane's leaves, is that of the journal's lines."""

    def is_all() -> bool:
        audit = node.broker.status()["audit"]
        return bool(audit["published"] == audit["entries"] > 0)

    await async_wait_until(lambda: asyncio.to_thread(is_all), what="a checkpoint over everything")
    command = ["audit", "check", "--log", str(node.broker.folder / "state")]
    checked = await asyncio.to_thread(CliRunner().invoke, cli, command)
    assert checked.exit_code == 0, checked.output


@asynccontextmanager
async def whole(folder: Path, text: str, **changes: str) -> AsyncIterator[Whole]:
    made = Whole(folder, text, **changes)
    try:
        await made.double.start()
        await asyncio.to_thread(made.broker.start)
        made.double.say(made.store.inode, made.authority.issue(STORE), instance="store-1", component="crm/store")
        made.double.say(made.front.inode, made.authority.issue(FRONT), instance="front-1")
        await async_wait_until(
            lambda: asyncio.to_thread(lambda: made.broker.callee("crm/store") == "attested"), what="the callee"
        )
        yield made
    finally:
        await asyncio.to_thread(made.broker.kill)
        for component in (made.store, made.front):
            component.kill()
        await made.double.stop()


async def test_documents_settings_and_routes_lead_outside_and_nowhere_else(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    routes = tmp_path / "routes.yaml"
    egress = f"{{ca_file: {web.ca_file}, allow_private: true}}"
    with Service(web) as server, Echo() as echo:
        text = document(tmp_path, server.port, echo.port)
        async with whole(tmp_path, text, egress=egress, routes=str(routes)) as node:
            with PlainPeer(node.authority) as ledger:
                routes.write_text(f"- {{peer: '{LEDGER}', endpoints: ['127.0.0.1:{ledger.port}']}}\n")
                await async_wait_until(
                    lambda: asyncio.to_thread(lambda: LEDGER in str(node.broker.status()["routes"])), what="the route"
                )
                assert await node.call(f"localhost:{server.port}") == (200, "from outside")
                assert await node.call("ledger", "/entries") == (200, "from outside")
                assert ledger.clients == [FRONT]
                status, body = await node.call(f"localhost:{server.port}", "/v2/other")
                assert (status, json.loads(body)["code"]) == (403, "policy_denied")
                status, body = await node.call(f"localhost:{echo.port}")
                assert (status, json.loads(body)["code"]) == (403, "egress_denied")
                observed = [each for each in node.entries() if isinstance(each, StatementEntry)]
                kinds = [each.kind for each in observed if each.iss == FRONT]
                assert kinds.count(StatementKind.OBSERVATION) == 2
                assert (await asyncio.to_thread(node.broker.status))["without_custody"] == [
                    {
                        "component": "crm/front",
                        "calls": [LEDGER, f"localhost:{server.port}"],
                        "tunnels": [f"localhost:{echo.port}"],
                        "called_by": [],
                    },
                    {
                        "component": "crm/store",
                        "calls": [],
                        "tunnels": [],
                        "called_by": ["spiffe://example.org/edge/*"],
                    },
                ]
                await check_tree(node)
                metrics = (await asyncio.to_thread(node.broker.get, "/metrics"))[1].decode()
                assert 'hopseal_broker_calls_without_custody_total{code="ok",kind="external"} 1.0' in metrics
                assert 'hopseal_broker_calls_without_custody_total{code="ok",kind="peer"} 1.0' in metrics


async def test_a_peer_that_the_document_accepts_comes_in_without_custody_and_another_does_not(tmp_path: Path) -> None:
    port = free_port()
    async with whole(tmp_path, document(tmp_path, 1, 2), peer_listen=f"127.0.0.1:{port}") as node:
        sni = "store.crm.hopseal.invalid"
        request = http_request("POST", "/items", [("host", "x")], b"hello")

        def call(spiffe_id: str) -> tuple[int, bytes]:
            got = send(port, node.authority.issue(spiffe_id), request, sni)
            assert got is not None
            return got.status, got.body

        status, body = await asyncio.to_thread(call, "spiffe://example.org/edge/a")
        assert (status, json.loads(body)["got"]) == (200, "hello")
        assert (await asyncio.to_thread(call, "spiffe://example.org/other"))[0] == 428
        assert (await asyncio.to_thread(call, FRONT))[0] == 428
        begun = [each for each in node.entries() if isinstance(each, CallEntry) and each.phase == "begin"]
        assert [(each.iss, each.aud, each.op) for each in begun] == [
            ("spiffe://example.org/edge/a", STORE, "POST /items")
        ]
        await check_tree(node)


async def test_a_document_that_takes_an_entry_away_takes_effect_at_once(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    egress = f"{{ca_file: {web.ca_file}, allow_private: true}}"
    with Service(web) as server:
        text = document(tmp_path, server.port, 2)
        async with whole(tmp_path, text, egress=egress) as node:
            assert (await node.call(f"localhost:{server.port}"))[0] == 200
            without = "".join(line for line in text.splitlines(keepends=True) if f"localhost:{server.port}" not in line)
            (tmp_path / "agents" / "crm.yaml").write_text(without)
            await async_wait_until(lambda: len(node.broker.events("documents_loaded")) == 2, what="the new document")
            status, body = await node.call(f"localhost:{server.port}")
            assert (status, json.loads(body)["code"]) == (403, "egress_denied")
