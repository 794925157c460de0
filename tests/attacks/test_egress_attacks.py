"""Attacks where custody ends: what may not leave, who may not come in without it, and who cannot be reached so."""

from __future__ import annotations

import http.server
import json
from pathlib import Path

import pytest

from custody_refusals import refused_in
from dataplane_chain import three_in_a_row
from dataplane_nodes import Answer, Component, Node, Seen, answer, call, raw, spiffe_id
from hopseal.log.entries import CallEntry, RecordEntry
from oauth_server import issuers_json
from outside_servers import Service, WebAuthority, connect, describe, service
from svid_authority import Authority

pytestmark = pytest.mark.process

ORCHESTRATOR = spiffe_id("orchestrator")


def told(node: Node) -> list[RecordEntry | CallEntry]:
    return [each for each in node.log().entries if isinstance(each, RecordEntry | CallEntry)]


CARRIERS = {
    "as the framework forwards it": lambda token: ({"Authorization": f"Bearer {token}"}, "/"),
    "under another scheme": lambda token: ({"Authorization": f"Token {token}"}, "/"),
    "in a field of its own": lambda token: ({"X-User": token}, "/"),
    "in the path": lambda token: ({}, f"/{token}/x"),
    "in the query": lambda token: ({}, f"/?access_token={token}"),
    "in the query, escaped": lambda token: ({}, f"/?access_token=%65{token[1:]}"),
    "in a field, escaped": lambda token: ({"Cookie": "t=" + token.replace(".", "%2E")}, "/"),
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_token_of_a_chains_user_does_not_leave(tmp_path: Path, carrier: str) -> None:
    web = WebAuthority(tmp_path)
    egress = {"egress": {"ca_file": str(web.ca_file), "allow_private": True}}
    with Service(web) as server, three_in_a_row(tmp_path, **egress) as row:
        for node in (row.a, row.b, row.c):
            node.plane.set_issuers(issuers_json(row.auth))
        describe(row.b, {"reasoner": {"services": [service(port=server.port)]}})
        token = row.auth.exchange(row.auth.log_in("alice", ORCHESTRATOR), ORCHESTRATOR, "crm.read")
        headers, path = CARRIERS[carrier](token)
        answers: list[Answer] = []

        def think(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
            handle, named = seen.header("Custody-Handle"), f"localhost:{server.port}"
            answers.append(call(row.b, named, path, headers=headers, handle=handle))
            answers.append(call(row.b, named, headers={"Authorization": "Bearer own"}, handle=handle))
            answer(handler, b"done")

        row.reasoner.respond = think
        assert call(row.a, "reasoner.crm", headers={"Txn-Token": token}).status == 200
        assert [(each.status, each.code) for each in answers] == [(403, "egress_user_token"), (200, None)]
        (request,) = server.requests
        sent = dict(request.headers)
        assert sent["authorization"] == "Bearer own"
        assert not [name for name in sent if name.startswith(("custody", "txn"))]
        assert token not in str(request.headers)


def test_documents_that_lie_do_not_reach_a_hopseal_callee_without_custody(tmp_path: Path) -> None:
    """The caller's node takes the tool for one without custody; the tool's node knows better."""
    authority = Authority()
    with Component(tmp_path / "tool.sock") as tool:
        a = Node(tmp_path / "a", authority).start()
        b = Node(tmp_path / "b", authority, caller=None, listens={"tool": tool.path}).start()
        try:
            describe(a, {"orchestrator": {"plain": ["crm/tool"]}, "tool": {"brokered": False}})
            describe(b, {"tool": {"accepts": ["spiffe://example.org/*"]}})
            # Only a component's own name leads to it, and without custody none is asked for.
            b_default = Node(
                tmp_path / "c",
                authority,
                caller=None,
                listens={"tool": tool.path},
                settings={"default_component": "crm/tool"},
            ).start()
            try:
                describe(b_default, {"tool": {"accepts": ["spiffe://example.org/*"]}})
                a.route(tool=b.port)
                assert call(a).code in {"peer_unreachable", "peer_untrusted"}
                a.route(tool=b_default.port)
                with refused_in(b_default.log_dir, "custody_missing"):
                    got = call(a)
                    assert (got.status, json.loads(got.body)["code"]) == (428, "custody_missing")
                assert tool.seen == []
            finally:
                b_default.stop()
        finally:
            a.stop()
            b.stop()


FORMS = {
    "another host in the target": "GET https://{0}/ HTTP/1.1\r\nHost: localhost:1\r\n\r\n",
    "another port in the target": "GET https://localhost:1/ HTTP/1.1\r\nHost: {0}\r\n\r\n",
    "a user in the target": "GET https://user@{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n",
    "another scheme": "GET ftp://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n",
    "two hosts": "GET / HTTP/1.1\r\nHost: {0}\r\nHost: {0}\r\n\r\n",
    "a dot at the end": "GET / HTTP/1.1\r\nHost: localhost.:{1}\r\n\r\n",
    "an address": "GET / HTTP/1.1\r\nHost: 127.0.0.1:{1}\r\n\r\n",
    "an address as a number": "GET / HTTP/1.1\r\nHost: 2130706433:{1}\r\n\r\n",
    "a path that climbs": "GET /a/../b HTTP/1.1\r\nHost: {0}\r\n\r\n",
    "an upgrade": "GET / HTTP/1.1\r\nHost: {0}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_no_spelling_of_a_request_leads_outside_but_the_one_that_is_listed(tmp_path: Path, form: str) -> None:
    web = WebAuthority(tmp_path)
    egress = {"egress": {"ca_file": str(web.ca_file), "allow_private": True}}
    with Service(web) as server:
        node = Node(tmp_path / "a", Authority(), settings=egress).start()
        try:
            describe(node, {"orchestrator": {"services": [service(port=server.port)]}})
            head = FORMS[form].format(f"localhost:{server.port}", server.port)
            received = raw(node.out, head.encode(), timeout=1)
            assert received.split(b" ", 2)[1] in {b"400", b"403", b"501"}
            assert (server.requests, told(node)) == ([], [])
            assert call(node, f"localhost:{server.port}").status == 200
        finally:
            node.stop()


def test_bytes_behind_a_refused_connect_open_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path / "a", Authority()).start()
    try:
        describe(node, {})
        refused = b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n"
        received = raw(node.out, refused + b"GET /smuggled HTTP/1.1\r\nHost: evil.example\r\n\r\n", timeout=1)
        assert received.startswith(b"HTTP/1.1 403")
        assert {each["code"] for each in node.of("call")} == {"egress_denied"}
        assert told(node) == []
    finally:
        node.stop()


def test_a_component_cannot_open_another_ones_tunnels(tmp_path: Path) -> None:
    node = Node(tmp_path / "a", Authority(), settings={"egress": {"allow_private": True}}).start()
    try:
        describe(node, {"reasoner": {"services": [service("localhost", 5432, opaque=True)]}})
        connection, head = connect(node, "localhost:5432")
        connection.close()
        assert head.startswith("HTTP/1.1 403")
        assert node.wait_for_call(code="egress_denied")["caller"] == ORCHESTRATOR
    finally:
        node.stop()
