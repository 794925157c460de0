"""Requests with right statements at the wrong place or time, against a running data plane: custody-wire §14."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from custody_forging import record_of
from custody_refusals import Guarded, guarding, statements_in
from dataplane_nodes import TRUST_DOMAIN, Component, Node, call, pair, spiffe_id
from dataplane_peer import Message, http_request, send
from hopseal.custody.headers import CERTS, CHAIN
from hopseal.custody.record import parse_sealed_record
from hopseal.custody.seal import thumbprint
from hopseal.log.entries import RecordEntry
from hopseal.svid import X509Svid
from svid_authority import Authority

pytestmark = pytest.mark.process


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with guarding(tmp_path) as made:
        yield made


@pytest.fixture
def svid(guarded: Guarded) -> X509Svid:
    return guarded.node.authority.issue(spiffe_id("orchestrator"))


# --- replay


def test_a_captured_message_is_accepted_once(guarded: Guarded, svid: X509Svid) -> None:
    data = Message(svid).wire()
    guarded.accepts(svid, data)
    for _ in range(2):
        guarded.refuses(svid, data, "custody_replayed")


def test_an_id_that_was_used_serves_no_other_record(guarded: Guarded, svid: X509Svid) -> None:
    first = Message(svid)
    guarded.accepts(svid, first.wire())
    other = Message(svid, body=b'{"other":1}').changed(jti=record_of(first).jti)
    guarded.refuses(svid, other.wire(), "custody_replayed")


def test_of_two_processes_that_send_one_record_at_once_exactly_one_passes(guarded: Guarded, svid: X509Svid) -> None:
    rounds = [Message(svid).wire() for _ in range(20)]
    sends = [data for data in rounds for _ in range(2)]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, spawn) as processes:
        answers = list(processes.map(functools.partial(send, guarded.node.port, svid), sends))
    for one, other in zip(answers[::2], answers[1::2], strict=True):
        assert {one and one.code, other and other.code} == {None, "custody_replayed"}
    assert len(guarded.component.seen) == len(rounds)
    records = [each for each in statements_in(guarded.node.log_dir) if isinstance(each, RecordEntry)]
    assert Counter(each.code for each in records) == {None: len(rounds), "custody_replayed": len(rounds)}


def test_a_record_for_one_replica_is_refused_by_the_other(tmp_path: Path) -> None:
    """Both answer to one name with keys of their own, as replicas on two nodes do."""
    authority = Authority(TRUST_DOMAIN)
    path = tmp_path / "tool.sock"
    with Component(path) as tool:
        replicas = [Node(tmp_path / name, authority, None, {"tool": path}).start() for name in ("one", "two")]
        try:
            one, two = (Guarded(node, tool) for node in replicas)
            svid = authority.issue(spiffe_id("orchestrator"))
            data = Message(svid).changed(srv=thumbprint(one.node.give("tool"))).wire()
            two.refuses(svid, data, "custody_audience")
            one.accepts(svid, data)
            two.refuses(svid, data, "custody_audience")
        finally:
            for node in replicas:
                node.stop()


def test_a_broker_names_the_replica_in_every_record(tmp_path: Path) -> None:
    """So none of them serves at another, as the test before shows."""
    with pair(tmp_path) as (a, b, _tool):
        leaf = b.give("tool")
        assert call(a).status == 200
        (entry,) = [each for each in statements_in(b.log_dir) if isinstance(each, RecordEntry)]
        assert entry.sealed is not None
        assert parse_sealed_record(entry.sealed).record.srv == thumbprint(leaf)


# --- time


@pytest.mark.parametrize(
    ("made_s", "lives_s", "passes"),
    [
        (10, 30, True),
        (13, 30, False),
        (30, 30, False),
        (-30, 23, True),
        (-30, 20, False),
        (-60, 30, False),
        (0, 60, True),
        (0, 61, False),
    ],
)
def test_clocks_may_be_ten_seconds_apart_and_records_live_a_minute(
    guarded: Guarded, svid: X509Svid, made_s: int, lives_s: int, passes: bool
) -> None:
    now = int(time.time())
    message = Message(svid).changed(iat=now + made_s, exp=now + made_s + lives_s)
    if passes:
        guarded.accepts(svid, message.wire())
    else:
        guarded.refuses(svid, message.wire(), "custody_expired")


# --- fields


def stuffed(message: Message, name: str, value: str) -> bytes:
    return message.wire(extra=[(name, value)])


def bound_together(message: Message) -> bytes:
    """Each field is within its own bound and all of them are not."""
    extra = [(CHAIN, ",".join(["x" * 4000] * 3)), (CERTS, ",".join(f":{'A' * 1600}:" for _ in range(5)))]
    return message.wire(extra=extra)


FIELDS: dict[str, Callable[[Message], bytes]] = {
    "custody_duplicate record": lambda m: stuffed(m, "custody-record", m.sealed()),
    "custody_duplicate record in capitals": lambda m: stuffed(m, "CUSTODY-RECORD", m.sealed()),
    "custody_duplicate chain": lambda m: m.wire(extra=[(CHAIN, "a.b.c.d.e"), (CHAIN, "a.b.c.d.e")]),
    "custody_duplicate certificates": lambda m: m.wire(extra=[(CERTS, ":AA==:"), (CERTS, ":AA==:")]),
    "custody_malformed underscore twin": lambda m: stuffed(m, "custody_record", m.sealed()),
    "custody_malformed half an underscore twin": lambda m: stuffed(m, "Custody_Chain", "a.b.c.d.e"),
    "custody_malformed record in a list": lambda m: m.wire(sealed=f"{m.sealed()}, {m.sealed()}"),
    "custody_malformed certificate": lambda m: stuffed(m, CERTS, "AA=="),
    "custody_missing stripped": lambda m: http_request("POST", "/mcp", [("host", "x"), *m.headers], m.body),
    "custody_missing only a chain": lambda m: http_request(
        "POST", "/mcp", [("host", "x"), (CHAIN, m.sealed())], m.body
    ),
    "custody_early_data": lambda m: stuffed(m, "early-data", "1"),
    "custody_binding body": lambda m: m.wire().replace(b"\r\n\r\n{}", b"\r\n\r\n[]"),
    "custody_binding method": lambda m: m.wire().replace(b"POST /mcp ", b"PUT /mcp "),
    "custody_binding path": lambda m: m.wire().replace(b"POST /mcp ", b"POST /mcq "),
    "custody_binding query": lambda m: m.wire().replace(b"POST /mcp ", b"POST /mcp?x=1 "),
    "custody_binding token injected": lambda m: stuffed(m, "authorization", "Bearer x"),
    "custody_binding user injected": lambda m: stuffed(m, "txn-token", "a.b.c"),
    "custody_binding digest stripped": lambda m: m.wire().replace(b"content-digest: ", b"digest: "),
    "custody_audience": lambda m: m.changed(aud=spiffe_id("reasoner")).wire(),
    "custody_malformed audience in capitals": lambda m: m.changed(
        aud=spiffe_id("tool").replace("example", "EXAMPLE")
    ).wire(),
    "custody_too_large record": lambda m: m.wire(sealed="a" * 4097),
    "custody_too_large chain": lambda m: stuffed(m, CHAIN, "a" * 12_289),
    "custody_too_large ancestor": lambda m: stuffed(m, CHAIN, "a" * 4097),
    "custody_too_large certificates": lambda m: stuffed(m, CERTS, ",".join([":AAAA:"] * 11)),
    "custody_too_large certificate": lambda m: stuffed(m, CERTS, f":{'A' * 2736}:"),
    "custody_too_large list of certificates": lambda m: stuffed(m, CERTS, ",".join([f":{'A' * 2000}:"] * 5)),
    "custody_too_large together": bound_together,
    "custody_too_large a thousand hops": lambda m: stuffed(m, CHAIN, ",".join([m.sealed()] * 40)),
    "custody_too_long a thousand hops of nothing": lambda m: stuffed(m, CHAIN, ",".join(["a.b.c.d.e"] * 1000)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_are_not_as_they_should_be_are_refused(guarded: Guarded, svid: X509Svid, name: str) -> None:
    message = Message(svid)
    guarded.refuses(svid, FIELDS[name](message), name.split(maxsplit=1)[0])
    guarded.accepts(svid, message.wire())


@pytest.mark.parametrize("header", ["Custody-Record", "custody-record, content-digest", "close, Custody-Record"])
def test_nothing_that_a_component_says_of_its_connection_takes_the_record_away(tmp_path: Path, header: str) -> None:
    with pair(tmp_path) as (a, b, tool):
        assert call(a, headers={"Connection": header}).status == 200
        (entry,) = [each for each in statements_in(b.log_dir) if isinstance(each, RecordEntry)]
        assert entry.accepted
        assert len(tool.seen) == 1
        assert tool.seen[0].header("custody-record") is None


def test_a_record_that_is_named_as_a_connection_header_is_read_all_the_same(guarded: Guarded, svid: X509Svid) -> None:
    message = Message(svid)
    data = message.wire().replace(b"connection: close", b"connection: close, Custody-Record")
    guarded.accepts(svid, data)
    guarded.refuses(svid, data, "custody_replayed")


BOMBS = {
    "one long header": b"x: " + b"a" * 60_000 + b"\r\n",
    "ten thousand headers": b"x: a\r\n" * 10_000,
    "ten thousand records": b"custody-record: a\r\n" * 10_000,
    "a long record": b"custody-record: " + b"a" * 60_000 + b"\r\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_header_bomb_is_refused_before_anybody_reads_it(guarded: Guarded, svid: X509Svid, name: str) -> None:
    """It is no request yet, so no entry says more than that nothing was accepted."""
    data = Message(svid).wire()
    head, rest = data.split(b"\r\n", 1)
    got = send(guarded.node.port, svid, head + b"\r\n" + BOMBS[name] + rest)
    assert got is None or got.status == 431
    assert not guarded.component.seen
    assert not any(each.accepted for each in statements_in(guarded.node.log_dir))
    guarded.accepts(svid, data)


# --- what the caller's broker refuses


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "tool.crm.evil.example"}, "egress_denied"),
        ({"Custody-Handle": "A" * 22}, "handle_unknown"),
    ],
    ids=["another host", "handle of nobody"],
)
def test_a_component_cannot_talk_its_broker_into_anothers_name(
    tmp_path: Path, headers: dict[str, str], code: str
) -> None:
    with pair(tmp_path) as (a, b, tool):
        host = headers.pop("Host", "tool.crm")
        assert call(a, host, headers=headers).code == code
        assert not tool.seen
        assert not statements_in(b.log_dir)
        a.wait_for_call(direction="out", code=code)


def test_a_full_replay_store_refuses_and_forgets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tool.sock"
    with Component(path) as tool:
        settings = {"limits": {"replay_entries": 32}}
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), None, {"tool": path}, settings).start()
        try:
            guarded, svid = Guarded(node, tool), node.authority.issue(spiffe_id("orchestrator"))
            kept = [Message(svid).wire() for _ in range(32)]
            answers = [send(node.port, svid, data) for data in kept]
            held = [data for data, got in zip(kept, answers, strict=True) if got is not None and got.status == 200]
            assert len(tool.seen) == len(held) < len(kept)
            guarded.refuses(svid, Message(svid).wire(), "custody_unavailable")
            for data in held:
                guarded.refuses(svid, data, "custody_replayed")
        finally:
            node.stop()
