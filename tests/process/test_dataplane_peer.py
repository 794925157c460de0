"""The peer port, spoken to by a peer that breaks one rule at a time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import h2.connection
import pytest

from custody_refusals import refusals_in
from dataplane_nodes import TRUST_DOMAIN, Component, Node, call, exchange, pair, spiffe_id
from dataplane_peer import Message, connected, context, fresh_id, http_request, send
from hopseal.ids import SpiffeId
from hopseal.log.entries import RecordEntry
from hopseal.svid import X509Svid
from svid_authority import Authority
from waiting import wait_until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    path = tmp_path / "tool.sock"
    with Component(path):
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), caller=None, listens={"tool": path}).start()
        yield node
        node.stop()


@pytest.fixture
def svid(node: Node) -> X509Svid:
    return node.authority.issue(spiffe_id("orchestrator"))


def refused(node: Node) -> list[RecordEntry]:
    return [each for each in refusals_in(node.log_dir) if isinstance(each, RecordEntry)]


def test_a_record_made_by_the_other_implementation_is_accepted(node: Node, svid: X509Svid) -> None:
    answer = send(node.port, svid, Message(svid).wire())
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"{}")


def test_a_record_is_accepted_once(node: Node, svid: X509Svid) -> None:
    data = Message(svid).wire()
    assert [send(node.port, svid, data).code for _ in range(3)] == [None, "custody_replayed", "custody_replayed"]


def test_of_many_at_once_with_one_record_exactly_one_passes(node: Node, svid: X509Svid) -> None:
    data = Message(svid).wire()
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        codes = list(threads.map(lambda _: send(node.port, svid, data).code, range(32)))
    assert sorted(codes, key=str) == [None, *["custody_replayed"] * 31]


def spoil_body(message: Message) -> bytes:
    return message.wire().replace(b"\r\n\r\n{}", b"\r\n\r\n[]")


def spoil_query(message: Message) -> bytes:
    return message.wire().replace(b"POST /mcp ", b"POST /mcp?x=1 ")


def spoil_signature(message: Message) -> bytes:
    sealed = message.sealed()
    return message.wire(sealed=sealed[:-4] + ("AAAA" if sealed[-4:] != "AAAA" else "BBBB"))


SPOILED = {
    "custody_missing": lambda _: http_request("POST", "/mcp", [("host", "x")], b"{}"),
    "custody_malformed": lambda m: m.wire(sealed="a.b.c"),
    "custody_duplicate": lambda m: m.wire(extra=[("custody-record", m.sealed())]),
    "custody_early_data": lambda m: m.wire(extra=[("early-data", "1")]),
    "custody_too_large": lambda m: m.wire(sealed="a" * 5000),
    "custody_binding": spoil_body,
    "custody_binding query": spoil_query,
    "custody_binding injected": lambda m: m.wire(extra=[("authorization", "Bearer x")]),
    "custody_audience": lambda m: m.changed(aud=spiffe_id("reasoner")).wire(),
    "custody_audience srv": lambda m: m.changed(srv="A" * 43).wire(),
    "custody_expired": lambda m: m.changed(iat=m.record.iat - 60, exp=m.record.exp - 60).wire(),
    "custody_expired future": lambda m: m.changed(iat=m.record.iat + 60, exp=m.record.exp + 60).wire(),
    "custody_identity": lambda m: m.changed(iss=SpiffeId.parse(spiffe_id("reasoner"))).wire(),
    "custody_unresolved": lambda m: m.changed(
        hop=1, prev="A" * 43, root_claims=frozenset(), task=None, auth=None
    ).wire(),
    "custody_signature": spoil_signature,
    "custody_chain": lambda m: m.changed(prev="A" * 43).wire(),
    "path_invalid": lambda m: m.wire().replace(b"POST /mcp ", b"POST //mcp "),
    "upgrade_unsupported": lambda m: m.wire(extra=[("upgrade", "websocket")]),
    "host_invalid": lambda m: m.wire(extra=[("host", "second")]),
    "body_too_large": lambda m: m.wire().replace(b"content-length: 2", b"content-length: 99999999"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_one_broken_rule_is_refused_with_its_code_and_logged(node: Node, svid: X509Svid, name: str) -> None:
    code = name.split(maxsplit=1)[0]
    answer = send(node.port, svid, SPOILED[name](Message(svid)))
    assert answer is not None
    assert answer.code == code
    (entry,) = refused(node)
    assert entry.code == code
    assert (entry.sealed is None) == (code in {"custody_missing", "custody_malformed", "custody_too_large"})
    node.wait_for_call(direction="in", code=code)


def test_a_flood_without_records_does_not_fill_the_log(node: Node, svid: X509Svid) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(node.port, context(svid)) as connection:
        connection.settimeout(1)
        received = exchange(connection, request * 1500)
    assert received.count(b"HTTP/1.1 428") == 1500
    assert 200 <= len(refused(node)) < 1000


def test_a_refusal_reveals_nothing_of_the_inside(node: Node, svid: X509Svid) -> None:
    answer = send(node.port, svid, spoil_body(Message(svid)))
    assert answer is not None
    assert set(answer.body.decode().replace('"', "").strip("{}").split(",")) == {
        "code:custody_binding",
        "status:400",
        "title:custody binding",
        "type:https://hopseal.dev/errors/custody_binding",
    }


def test_a_leaf_other_than_the_connections_is_refused(node: Node, svid: X509Svid) -> None:
    other = node.authority.issue(spiffe_id("orchestrator"))
    message = Message(svid)
    answer = send(node.port, svid, message.wire(sealed=message.sealed(other)))
    assert answer is not None
    # The other leaf is not known to the receiver at all.
    assert answer.code == "custody_unresolved"
    assert b"cert:" in answer.body


def test_a_component_that_may_not_start_cannot_be_the_root(node: Node) -> None:
    svid = node.authority.issue(spiffe_id("reasoner"))
    answer = send(node.port, svid, Message(svid).changed(iss=SpiffeId.parse(spiffe_id("reasoner"))).wire())
    assert answer is not None
    assert answer.code == "custody_authority"


def test_roots_of_one_chain_come_from_one_issuer(node: Node, svid: X509Svid) -> None:
    first = Message(svid)
    assert send(node.port, svid, first.wire()).status == 200
    sibling = first.changed(jti=fresh_id())
    assert send(node.port, svid, sibling.wire()).status == 200
    other_id = f"spiffe://{TRUST_DOMAIN}/elsewhere"
    other = node.authority.issue(other_id)
    foreign = Message(other).changed(iss=SpiffeId.parse(other_id), cid=first.record.cid)
    assert send(node.port, other, foreign.wire()).code == "custody_chain"


def test_an_undocumented_caller_is_for_policy_to_decide(node: Node) -> None:
    other_id = f"spiffe://{TRUST_DOMAIN}/elsewhere"
    other = node.authority.issue(other_id)
    message = Message(other).changed(iss=SpiffeId.parse(other_id))
    assert send(node.port, other, message.wire()).status == 200
    node.plane.set_policies("permit(principal, action, resource) when { context.caller_documented };", "[]")
    assert send(node.port, other, message.changed(jti=fresh_id()).wire()).code == "custody_forbidden"


def test_a_peer_without_certificate_or_of_another_authority_gets_nothing(node: Node) -> None:
    stranger = Authority(TRUST_DOMAIN).issue(spiffe_id("orchestrator"))
    for svid in (None, stranger):
        assert send(node.port, svid, http_request("GET", "/", [("host", "x")])) is None
    assert not node.of("call")
    wait_until(lambda: node.metric("connections_refused", why="handshake") == 2)


def test_bundles_are_never_merged(node: Node) -> None:
    partner = Authority("partner.example")
    node.plane.set_bundles([(TRUST_DOMAIN, [node.authority.der], 1), ("partner.example", [partner.der], 1)])
    own = partner.issue("spiffe://partner.example/x")
    assert send(node.port, own, http_request("GET", "/", [("host", "x")])).code == "custody_missing"
    impostor = partner.issue(spiffe_id("orchestrator"))
    assert send(node.port, impostor, Message(impostor).wire()) is None


@pytest.mark.parametrize(
    "names",
    [
        (spiffe_id("orchestrator"), spiffe_id("tool")),
        (spiffe_id("orchestrator") + "\x00",),
        ("https://example.org/x",),
        (f"spiffe://{TRUST_DOMAIN}",),
    ],
)
def test_a_certificate_needs_exactly_one_spiffe_id(node: Node, names: tuple[str, ...]) -> None:
    svid = node.authority.issue(spiffe_id("orchestrator"), names=names)
    assert send(node.port, svid, http_request("GET", "/", [("host", "x")])) is None


def test_an_expired_certificate_is_refused(node: Node) -> None:
    svid = node.authority.issue(spiffe_id("orchestrator"), ttl_s=-5)
    assert send(node.port, svid, http_request("GET", "/", [("host", "x")])) is None


@pytest.mark.parametrize("sni", ["nobody.crm.hopseal.invalid", "tool.crm", "example.org", None])
def test_an_unknown_server_name_fails_the_handshake(node: Node, svid: X509Svid, sni: str | None) -> None:
    assert send(node.port, svid, Message(svid).wire(), sni) is None
    wait_until(lambda: node.metric("connections_refused", why="unknown_name") == 1)


def test_a_default_component_answers_for_unknown_names(tmp_path: Path) -> None:
    path = tmp_path / "tool.sock"
    with Component(path):
        settings = {"default_component": "crm/tool"}
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}, settings=settings).start()
        try:
            svid = node.authority.issue(spiffe_id("orchestrator"))
            assert send(node.port, svid, Message(svid).wire(), "whatever.example").status == 200
            assert send(node.port, svid, Message(svid).wire(), None).status == 200
        finally:
            node.stop()


def test_only_tls_1_3_without_tickets_is_spoken(node: Node, svid: X509Svid) -> None:
    old = context(svid)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)), connected(node.port, old):
        pass
    with connected(node.port, context(svid)) as connection:
        exchange(connection, Message(svid).wire())
        assert connection.version() == "TLSv1.3"
        assert connection.session is None or not connection.session.has_ticket


def test_http_2_is_preferred(node: Node, svid: X509Svid) -> None:
    with connected(node.port, context(svid, ("http/1.1", "h2"))) as connection:
        assert connection.selected_alpn_protocol() == "h2"


def test_replacing_the_bundle_closes_connections_that_it_no_longer_covers(node: Node, svid: X509Svid) -> None:
    with connected(node.port, context(svid)) as connection:
        wait_until(lambda: node.metric("peer_connections") == 1)
        node.plane.set_bundles([(TRUST_DOMAIN, [Authority(TRUST_DOMAIN).der], 2)])
        connection.settimeout(2)
        started = time.monotonic()
        assert not connection.recv(1)
        assert time.monotonic() - started < 1


def test_a_connection_does_not_outlive_its_certificate(node: Node) -> None:
    svid = node.authority.issue(spiffe_id("orchestrator"), ttl_s=2)
    with connected(node.port, context(svid)) as connection:
        connection.settimeout(8)
        assert not connection.recv(1)


def test_garbage_and_silence_on_the_peer_port_disturb_nobody(tmp_path: Path) -> None:
    with pair(tmp_path, timeouts_ms={"handshake": 300, "header_read": 500, "idle": 500}) as (a, b, _tool):
        silent = [socket.create_connection(("127.0.0.1", b.port)) for _ in range(50)]
        for data in (b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"A" * 70000):
            with socket.create_connection(("127.0.0.1", b.port)) as connection:
                exchange(connection, data)
        assert call(a).status == 200
        wait_until(lambda: b.metric("connections_refused", why="handshake_timeout") == 50)
        for connection in silent:
            connection.settimeout(2)
            assert connection.recv(1) == b""
            connection.close()


def test_a_peer_that_says_nothing_after_the_handshake_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "tool.sock"
    settings = {"timeouts_ms": {"header_read": 300, "idle": 400}}
    with Component(path):
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}, settings=settings).start()
        try:
            svid = node.authority.issue(spiffe_id("orchestrator"))
            for alpn in ("http/1.1", "h2"):
                with connected(node.port, context(svid, (alpn,))) as connection:
                    connection.settimeout(5)
                    while connection.recv(4096):
                        pass  # HTTP/2 settings and the goodbye
        finally:
            node.stop()


def test_connections_from_one_address_are_bounded(tmp_path: Path) -> None:
    with pair(tmp_path, limits={"peer_connections_per_address": 5}) as (a, b, _tool):
        assert call(a).status == 200
        flood = [socket.create_connection(("127.0.0.1", b.port)) for _ in range(20)]
        wait_until(lambda: b.metric("connections_refused", why="too_many") == 16)
        assert call(a).status == 200
        for connection in flood:
            connection.close()
        wait_until(lambda: b.metric("connections_refused", why="handshake") == 4)


def test_rapid_resets_cut_their_connection_and_disturb_nobody(node: Node, svid: X509Svid) -> None:
    client = h2.connection.H2Connection()
    client.initiate_connection()
    with connected(node.port, context(svid, ("h2",))) as connection:
        connection.sendall(client.data_to_send())
        connection.settimeout(5)
        headers = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "x")]
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(20_000):
                stream = client.get_next_available_stream_id()
                client.send_headers(stream, headers)
                client.reset_stream(stream)
                connection.sendall(client.data_to_send())
                sent += 1
            while connection.recv(65536):
                pass
        assert sent < 20_000 or connection.recv(1) == b""
    assert send(node.port, svid, Message(svid).wire()).status == 200
    wait_until(lambda: node.metric("calls_in_progress") == 0)


def test_streams_of_one_connection_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "tool.sock"
    settings = {"limits": {"streams_per_connection": 8}}
    with Component(path):
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}, settings=settings).start()
        try:
            client = h2.connection.H2Connection()
            client.initiate_connection()
            svid = node.authority.issue(spiffe_id("orchestrator"))
            with connected(node.port, context(svid, ("h2",))) as connection:
                connection.sendall(client.data_to_send())
                while client.remote_settings.max_concurrent_streams > 8:
                    client.receive_data(connection.recv(65536))
                assert client.remote_settings.max_concurrent_streams == 8
                assert client.remote_settings.max_header_list_size == 48 << 10
        finally:
            node.stop()
