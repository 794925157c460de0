"""Calls of components to HTTPS services outside, through the real data plane and a real TLS server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane_nodes import Node, call, raw, spiffe_id, statements
from dataplane_server import Peer, Reply, Request
from hopseal.custody.closing import Closing
from hopseal.custody.encoding import encode_b64url
from hopseal.custody.observation import Observation
from hopseal.custody.record import parse_sealed_record
from hopseal.custody.statement import parse_sealed_statement
from hopseal.log.entries import Direction, RecordEntry, StatementKind
from outside_servers import Service, WebAuthority, describe, hello, service
from svid_authority import Authority
from waiting import wait_until


@contextlib.contextmanager
def reaching(
    folder: Path, server: Service, web: WebAuthority, more: dict | None = None, **egress: object
) -> Iterator[Node]:
    """A node whose orchestrator may call ``server``."""
    settings = {"egress": {"ca_file": str(web.ca_file), "allow_private": True, **egress}, **(more or {})}
    node = Node(folder / "a", Authority(), settings=settings).start()
    try:
        describe(node, {"orchestrator": {"services": [service(port=server.port)]}})
        yield node
    finally:
        node.stop()


def host(server: Service) -> str:
    return f"localhost:{server.port}"


def observations(node: Node) -> list[Observation]:
    sealed = [each.sealed for each in statements(node, Direction.SENT, StatementKind.OBSERVATION)]
    claims = [parse_sealed_statement(text).claims for text in sealed if text]
    assert all(isinstance(each, Observation) for each in claims)
    return claims


def records(node: Node) -> list[RecordEntry]:
    return [each for each in node.log().entries if isinstance(each, RecordEntry)]


@pytest.mark.parametrize("alpn", ["h2", "http/1.1", None])
def test_a_service_is_called_and_its_answer_is_observed(tmp_path: Path, alpn: str | None) -> None:
    web = WebAuthority(tmp_path)
    with Service(web, alpn=alpn) as server, reaching(tmp_path, server, web) as node:
        got = call(node, host(server), "/v1/chat?x=1", headers={"Authorization": "Bearer own-key"})
        assert (got.status, got.body) == (200, b"from outside")
        (request,) = server.requests
        sent = dict(request.headers)
        assert request.body == b"{}"
        assert sent["authorization"] == "Bearer own-key"
        assert sent.get(":authority", sent.get("host")) == host(server)
        assert sent.get(":path", "/v1/chat?x=1") == "/v1/chat?x=1"
        assert not [name for name in sent if name.startswith(("custody", "content-digest"))]
        (seen,) = observations(node)
        assert (str(seen.iss), str(seen.outcome.aud)) == (spiffe_id("orchestrator"), spiffe_id("orchestrator"))
        assert (seen.host, seen.outcome.st, str(seen.outcome.fin)) == (host(server), 200, "eof")
        assert seen.spki == encode_b64url(hashlib.sha256(server.public_key).digest())
        assert (seen.outcome.length, seen.outcome.cd) == (
            len(b"from outside"),
            encode_b64url(hashlib.sha256(b"from outside").digest()),
        )


def test_the_record_is_durable_before_the_request_leaves_and_stays_here(tmp_path: Path) -> None:
    logged: list[int] = []

    def respond(peer: Peer, request: Request) -> Reply:
        logged.append(len(records(node)))
        return hello(peer, request)

    web = WebAuthority(tmp_path)
    with Service(web, respond) as server, reaching(tmp_path, server, web) as node:
        assert call(node, host(server)).status == 200
        assert logged == [1]
        (record,) = records(node)
        assert (record.iss, record.aud) == (spiffe_id("orchestrator"), f"https://{host(server)}")
        assert (record.direction, record.op, record.hop) == (Direction.SENT, "POST /mcp", 0)
        assert record.sealed is not None
        claims = parse_sealed_record(record.sealed).record
        assert claims.rr is None
        (seen,) = observations(node)
        assert (seen.outcome.rec, seen.outcome.cid) == (parse_sealed_record(record.sealed).hash, record.cid)


def test_calls_of_one_task_are_siblings_and_each_is_based_on_the_answers_before(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    with Service(web) as server, reaching(tmp_path, server, web) as node:
        first = call(node, host(server))
        assert first.handle is not None
        assert call(node, host(server), handle=first.handle).status == 200
        before, after = (parse_sealed_record(each.sealed or "") for each in records(node))
        assert before.record.cid == after.record.cid
        (seen, _) = statements(node, Direction.SENT, StatementKind.OBSERVATION)
        assert seen.sealed is not None
        assert after.record.based_on == (parse_sealed_statement(seen.sealed).statement.hash,)


@pytest.mark.parametrize("target", ["https://{}/v1", "http://{}/v1"])
def test_the_absolute_form_of_proxies_is_taken_and_always_leaves_over_tls(tmp_path: Path, target: str) -> None:
    web = WebAuthority(tmp_path)
    with Service(web) as server, reaching(tmp_path, server, web) as node:
        uri = target.format(host(server))
        head = f"GET {uri} HTTP/1.1\r\nHost: {host(server)}\r\nConnection: close\r\n\r\n"
        assert raw(node.out, head.encode()).startswith(b"HTTP/1.1 200")
        assert dict(server.requests[0].headers)[":path"] == "/v1"


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_a_service_that_forges_custody_fields_is_not_believed(tmp_path: Path, alpn: str) -> None:
    def forge(_peer: Peer, _request: Request) -> Reply:
        forged = [("custody-receipt", "x.y.z"), ("custody-handle", "h"), ("custody-certs", ":eA==:"), ("kept", "yes")]
        return Reply(headers=forged, trailers=[("custody-receipt", "x")] if alpn == "h2" else [])

    web = WebAuthority(tmp_path)
    with Service(web, forge, alpn=alpn) as server, reaching(tmp_path, server, web) as node:
        got = call(node, host(server))
        assert (got.status, got.headers["kept"]) == (200, "yes")
        assert {name for name in got.headers if name.startswith("custody")} == {"custody-handle"}
        assert got.handle != "h"
        assert statements(node, Direction.RECEIVED) == []
        assert len(observations(node)) == 1


def test_a_redirect_is_the_components_to_follow(tmp_path: Path) -> None:
    def redirect(_peer: Peer, _request: Request) -> Reply:
        return Reply(status=302, headers=[("location", "https://elsewhere.example/")])

    web = WebAuthority(tmp_path)
    with Service(web, redirect) as server, reaching(tmp_path, server, web) as node:
        got = call(node, host(server))
        assert (got.status, got.headers["location"], len(server.requests)) == (302, "https://elsewhere.example/", 1)


def test_a_long_answer_streams_and_its_end_waits_for_the_observation(tmp_path: Path) -> None:
    body = bytes(range(256)) * 4096

    def long(_peer: Peer, _request: Request) -> Reply:
        return Reply(body=body)

    web = WebAuthority(tmp_path)
    with Service(web, long, alpn="http/1.1") as server, reaching(tmp_path, server, web) as node:
        assert call(node, host(server)).body == body
        (seen,) = observations(node)
        assert (seen.outcome.length, str(seen.outcome.fin)) == (len(body), "eof")


@pytest.mark.parametrize(("alpn", "length"), [("h2", True), ("h2", False), ("http/1.1", True), ("http/1.1", False)])
def test_an_answer_that_is_cut_is_observed_as_cut(tmp_path: Path, alpn: str, length: bool) -> None:
    def cut(_peer: Peer, _request: Request) -> Reply:
        return Reply(body=b"x" * 300_000, length=length, cut=True)

    web = WebAuthority(tmp_path)
    with Service(web, cut, alpn=alpn) as server, reaching(tmp_path, server, web) as node:
        with contextlib.suppress(Exception):
            assert call(node, host(server)).code == "answer_aborted"
        wait_until(lambda: observations(node), what="the observation of a cut answer")
        (seen,) = observations(node)
        assert str(seen.outcome.fin) == "abort"
        assert seen.outcome.length <= 300_000
        assert node.wait_for_call(direction="out", code="answer_aborted")["complete"] is False


def test_a_component_that_hangs_up_leaves_an_aborted_observation(tmp_path: Path) -> None:
    def stall(_peer: Peer, _request: Request) -> Reply:
        return Reply(body=b"x" * 200_000, length=False, stall=True)

    web = WebAuthority(tmp_path)
    with Service(web, stall) as server, reaching(tmp_path, server, web) as node:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(node.out))
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host(server)}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: observations(node), what="the observation of an answer that nobody read")
        assert str(observations(node)[0].outcome.fin) == "abort"


def test_a_host_that_no_entry_lists_is_refused_before_anything_leaves(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    with Service(web) as server, reaching(tmp_path, server, web) as node:
        for named in ("api.example.com", f"localhost:{server.port + 1}", "localhost.example.com"):
            got = call(node, named)
            assert (got.status, got.code) == (403, "egress_denied"), named
        assert call(node, "nobody.crm").code == "unknown_peer"
        assert (server.requests, records(node)) == ([], [])


def test_a_name_that_leads_to_this_host_is_refused_unless_that_is_allowed(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    with Service(web) as server, reaching(tmp_path, server, web, allow_private=False) as node:
        got = call(node, host(server))
        assert (got.status, got.code) == (403, "egress_address")
        assert b"127.0.0.1" not in got.body
        assert "is not public" in node.wait_for_call(direction="out", code="egress_address")["detail"]
        assert (server.requests, records(node)) == ([], [])


def test_a_name_that_does_not_resolve_says_so(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    with Service(web) as server, reaching(tmp_path, server, web) as node:
        describe(node, {"orchestrator": {"services": [service("nowhere.invalid")]}})
        assert (call(node, "nowhere.invalid").status, call(node, "nowhere.invalid").code) == (
            502,
            "egress_unresolvable",
        )


def test_nobody_listening_says_so(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    with Service(web) as server, reaching(tmp_path, server, web) as node:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        describe(node, {"orchestrator": {"services": [service(port=port)]}})
        got = call(node, f"localhost:{port}")
        assert (got.status, got.code) == (502, "egress_unreachable")


def test_a_certificate_of_another_name_or_root_is_refused(tmp_path: Path) -> None:
    web, other = WebAuthority(tmp_path), WebAuthority(tmp_path / "other")
    for server in (Service(web, name="other.example"), Service(other)):
        with server, reaching(tmp_path / server.__class__.__name__ / str(id(server)), server, web) as node:
            got = call(node, host(server))
            assert (got.status, got.code) == (502, "egress_tls")
            assert (server.requests, records(node)) == ([], [])


def test_without_a_file_the_roots_of_the_host_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = WebAuthority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(web.ca_file))
    with Service(web) as server, reaching(tmp_path, server, web, ca_file=None) as node:
        assert call(node, host(server)).status == 200


def test_a_service_that_knows_tls_1_2_only_is_reached(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    with (
        Service(web, alpn="http/1.1", tls=ssl.TLSVersion.TLSv1_2) as server,
        reaching(tmp_path, server, web) as node,
    ):
        assert call(node, host(server)).status == 200


def test_policy_sees_the_host_and_the_operation(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    with Service(web) as server, reaching(tmp_path, server, web) as node:
        permit = f'permit(principal, action, resource == Hopseal::External::"{host(server)}") '
        node.plane.set_policies(f'{permit} when {{ context.http like "GET /ok*" }};', "[]")
        assert call(node, host(server), "/ok", method="GET", body=b"").status == 200
        got = call(node, host(server), "/no", method="GET", body=b"")
        assert (got.status, got.code) == (403, "policy_denied")
        assert [dict(each.headers)[":path"] for each in server.requests] == ["/ok"]


def test_a_withdrawn_component_loses_its_connections(tmp_path: Path) -> None:
    def stall(_peer: Peer, _request: Request) -> Reply:
        return Reply(body=b"x" * 200_000, length=False, stall=True)

    web = WebAuthority(tmp_path)
    with (
        Service(web, stall) as server,
        reaching(tmp_path, server, web) as node,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(10)
        connection.connect(str(node.out))
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {host(server)}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert node.metric("web_connections") == 1
        node.withdraw("orchestrator")
        wait_until(lambda: node.metric("web_connections") == 0, what="the connection to close")


def test_events_and_metrics_say_that_there_was_no_custody(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    with Service(web) as server, reaching(tmp_path, server, web) as node:
        call(node, host(server))
        event = node.wait_for_call(direction="out", code="ok")
        assert (event["custody"], event["kind"], event["callee"]) == ("none", "external", f"https://{host(server)}")
        call(node, "api.example.com")
        assert node.metric("calls_without_custody", kind="external", code="ok") == 1
        assert json.loads(node.plane.stats())["log"]["healthy"]


def test_a_component_without_an_identity_reaches_nothing_outside(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    with Service(web) as server, reaching(tmp_path, server, web) as node:
        node.withdraw("orchestrator")
        assert call(node, host(server)).status in {403, 503}
        assert server.requests == []


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_a_long_request_streams_and_its_closing_statement_stays_here(tmp_path: Path, alpn: str) -> None:
    web = WebAuthority(tmp_path)
    sent = bytes(range(256)) * 40
    settings = {"streams": "accept", "body_limit_bytes": 1024}
    with Service(web, alpn=alpn) as server, reaching(tmp_path, server, web, settings) as node:
        got = call(node, host(server), "/upload", method="PUT", body=sent)
        assert (got.status, got.body) == (200, b"from outside")
        (request,) = server.requests
        assert (request.body, request.trailers) == (sent, [])
        (closing,) = statements(node, Direction.SENT, StatementKind.CLOSING)
        claims = parse_sealed_statement(closing.sealed or "").claims
        assert isinstance(claims, Closing)
        assert (str(claims.iss), str(claims.aud)) == (spiffe_id("orchestrator"), spiffe_id("orchestrator"))
        assert (claims.length, claims.cd) == (len(sent), encode_b64url(hashlib.sha256(sent).digest()))
        (record,) = records(node)
        assert parse_sealed_record(record.sealed or "").record.bm == "stream"
        assert claims.rec == parse_sealed_record(record.sealed or "").hash


def test_a_request_that_is_cut_is_closed_as_cut(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    settings = {"streams": "accept", "body_limit_bytes": 1024}
    with Service(web) as server, reaching(tmp_path, server, web, settings) as node:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(node.out))
            head = f"PUT / HTTP/1.1\r\nHost: {host(server)}\r\nContent-Length: 9000\r\n\r\n"
            connection.sendall(head.encode() + b"x" * 5000)
            wait_until(lambda: records(node), what="the record of the stream")
        wait_until(lambda: statements(node, Direction.SENT, StatementKind.CLOSING), what="the closing statement")
        (closing,) = statements(node, Direction.SENT, StatementKind.CLOSING)
        claims = parse_sealed_statement(closing.sealed or "").claims
        assert isinstance(claims, Closing)
        assert str(claims.fin) == "abort"


def test_a_transaction_token_is_taken_out(tmp_path: Path) -> None:
    web = WebAuthority(tmp_path)
    with Service(web) as server, reaching(tmp_path, server, web) as node:
        got = call(node, host(server), headers={"Txn-Token": "a.b.c", "X-Api-Key": "own"})
        assert got.status == 200
        sent = dict(server.requests[0].headers)
        assert (sent.get("txn-token"), sent["x-api-key"]) == (None, "own")
