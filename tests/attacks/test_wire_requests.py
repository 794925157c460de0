"""Requests with right statements at the wrong place or time, against a running data plane: custody-wire §14."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from custody_refusals import Guarded, statements_in
from dataplane_nodes import TRUST_DOMAIN, Component, Node, call, pair, spiffe_id
from dataplane_peer import Message, connected, context, fresh_id, http_request, send
from dataplane_server import Peer
from hopseal.custody.authority import Authority as Ceiling
from hopseal.custody.headers import CERTS, CHAIN, format_certificates, format_custody_fields
from hopseal.custody.record import Record, SealedRecord, parse_sealed_record
from hopseal.custody.seal import thumbprint
from hopseal.ids import SpiffeId
from hopseal.log.entries import RecordEntry
from hopseal.svid import X509Svid
from svid_authority import Authority
from waiting import wait_until

pytestmark = pytest.mark.process

PARTNER = "partner.example"
PATH = ("orchestrator", "reasoner")  # of the honest chain that ends at the tool


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    path = tmp_path / "tool.sock"
    with Component(path) as tool:
        settings = {"worker_threads": 2}
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), None, {"tool": path}, settings).start()
        yield Guarded(node, tool)
        node.stop()


@pytest.fixture
def svid(guarded: Guarded) -> X509Svid:
    return guarded.node.authority.issue(spiffe_id("orchestrator"))


def record_of(message: Message) -> Record:
    assert message.record is not None
    return message.record


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


# --- whose connection, whose key, whose authority


def with_certificates(message: Message, *svids: X509Svid, sealed: str | None = None) -> bytes:
    return message.wire(sealed=sealed, extra=list(format_certificates([each.chain_der[0] for each in svids])))


def test_a_captured_record_is_worth_nothing_on_another_connection(guarded: Guarded, svid: X509Svid) -> None:
    message = Message(svid)
    for thief in (spiffe_id("reasoner"), spiffe_id("orchestrator")):
        other = guarded.node.authority.issue(thief)
        guarded.refuses(other, with_certificates(message, svid), "custody_identity")
    guarded.accepts(svid, message.wire())


def test_a_record_in_anothers_name_is_refused(guarded: Guarded, svid: X509Svid) -> None:
    forged = Message(svid).changed(iss=SpiffeId.parse(spiffe_id("reasoner")))
    guarded.refuses(svid, forged.wire(), "custody_identity")


def test_a_partners_authority_mints_nobody_of_ours(guarded: Guarded, svid: X509Svid) -> None:
    """Neither at the connection nor further up in a chain."""
    node, partner = guarded.node, Authority(PARTNER)
    node.plane.set_bundles([(TRUST_DOMAIN, [node.authority.der], 1), (PARTNER, [partner.der], 1)])
    impostor = partner.issue(spiffe_id("orchestrator"))
    guarded.cuts_off(impostor, Message(impostor).wire())
    chain = Chain.of(node, orchestrator=impostor)
    guarded.refuses(chain.svids["reasoner"], chain.wire(), "custody_untrusted")
    honest = Chain.of(node)
    guarded.accepts(honest.svids["reasoner"], honest.wire())


def test_a_key_of_an_authority_that_was_revoked_opens_nothing(guarded: Guarded, svid: X509Svid) -> None:
    """SPIRE takes a tainted authority out of the bundle: its SVIDs end with it, at the connection and in chains."""
    old, new = guarded.node.authority, Authority(TRUST_DOMAIN)
    guarded.accepts(svid, Message(svid).wire())
    guarded.node.plane.set_bundles([(TRUST_DOMAIN, [new.der], 2)])
    guarded.cuts_off(svid, Message(svid).wire())
    reasoner = new.issue(spiffe_id("reasoner"))
    chain = Chain.of(guarded.node, orchestrator=old.issue(spiffe_id("orchestrator")), reasoner=reasoner)
    guarded.refuses(reasoner, chain.wire(), "custody_untrusted")
    fresh = Chain.of(guarded.node, orchestrator=new.issue(spiffe_id("orchestrator")), reasoner=reasoner)
    guarded.accepts(reasoner, fresh.wire())


def test_no_key_is_used_in_a_handshake_older_than_tls_1_3(guarded: Guarded, svid: X509Svid, tmp_path: Path) -> None:
    """In older handshakes it would sign bytes that the other side has a say in; so neither end takes part in one."""
    old = context(svid)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)), connected(guarded.node.port, old):
        pass
    assert not guarded.component.seen
    wait_until(lambda: guarded.node.metric("connections_refused", why="handshake") == 1)
    authority = Authority(TRUST_DOMAIN)
    caller = Node(tmp_path / "caller", authority).start()
    try:
        with Peer(authority, tls=ssl.TLSVersion.TLSv1_2) as peer:
            caller.route(tool=peer.port)
            assert call(caller).code == "peer_unreachable"
            assert not peer.requests
            caller.wait_for_call(direction="out", code="peer_unreachable")
    finally:
        caller.stop()


def test_the_key_of_an_svid_that_was_withdrawn_seals_no_more_calls(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        assert call(a).status == 200
        a.withdraw("orchestrator")
        assert call(a).code == "identity_none"
        assert len([each for each in statements_in(a.log_dir) if isinstance(each, RecordEntry)]) == 1
        assert len(tool.seen) == 1
        a.wait_for_call(direction="out", code="identity_none")


# --- chains


@dataclass
class Chain:
    """An honest chain of the orchestrator and the reasoner to the tool, before a test spoils it."""

    svids: dict[str, X509Svid]
    auth: Ceiling = field(default_factory=lambda: Ceiling(exp=int(time.time()) + 600, hops=7))
    cid: str = field(default_factory=fresh_id)

    @classmethod
    def of(cls, node: Node, **svids: X509Svid) -> Chain:
        return cls({name: svids.get(name) or node.authority.issue(spiffe_id(name)) for name in PATH})

    def seal(self, by: str, record: Record) -> SealedRecord:
        return parse_sealed_record(Message(self.svids[by], record=record).sealed())

    def root(self, **claims: object) -> SealedRecord:
        first = record_of(Message(self.svids["orchestrator"]))
        claims = {"aud": spiffe_id("reasoner"), "cid": self.cid, "auth": self.auth} | claims
        return self.seal("orchestrator", replace(first, **claims))

    def hop(self, parent: SealedRecord, by: str = "reasoner", **claims: object) -> SealedRecord:
        """What continues ``parent``, bound to the request that :meth:`wire` sends."""
        linked = {
            "iss": SpiffeId.parse(spiffe_id(by)),
            "cid": parent.record.cid,
            "hop": parent.record.hop + 1,
            "prev": parent.hash,
            "root_claims": frozenset(),
            "task": None,
            "auth": None,
        }
        return self.seal(by, replace(record_of(Message(self.svids[by])), **(linked | claims)))

    def wire(self, *chain: SealedRecord) -> bytes:
        """The request that carries ``chain``, oldest first; the honest chain if none is given."""
        root = None if chain else self.root()
        *ancestors, newest = chain or (root, self.hop(root))
        message = Message(self.svids[PATH[-1]])
        certs = [each.chain_der[0] for each in self.svids.values()]
        fields = format_custody_fields(newest.text, [each.text for each in ancestors], certs)
        return http_request(message.method, message.path, [("host", "x"), *message.headers, *fields], message.body)


@pytest.fixture
def chain(guarded: Guarded) -> Chain:
    return Chain.of(guarded.node)


def spliced(chain: Chain) -> tuple[SealedRecord, ...]:
    """The newest record continues another task of the same components."""
    return replace(chain, cid=fresh_id()).root(), chain.hop(chain.root())


def truncated(chain: Chain) -> tuple[SealedRecord, ...]:
    """The reasoner cuts itself in where it was never handed anything: its caller's record names another."""
    root = chain.root(aud=spiffe_id("helper"))
    return root, chain.hop(root)


def removed(chain: Chain) -> tuple[SealedRecord, ...]:
    """Root, a hop of the orchestrator's, and then what continues the second as if it continued the first."""
    root = chain.root(aud=spiffe_id("orchestrator"))
    middle = chain.hop(root, "orchestrator", aud=spiffe_id("reasoner"))
    return root, chain.hop(middle)


def reordered(chain: Chain) -> tuple[SealedRecord, ...]:
    """Of four records the second and third changed places."""
    first, second, third, fourth = longer(chain, 4)
    return first, third, second, fourth


def root_last(chain: Chain) -> tuple[SealedRecord, ...]:
    """What comes first continues something, so the receiver asks for it before it looks on."""
    first, second, third = longer(chain, 3)
    return second, first, third


def again(chain: Chain) -> tuple[SealedRecord, ...]:
    root = chain.root()
    return root, root, chain.hop(root)


def a_second_root(chain: Chain) -> tuple[SealedRecord, ...]:
    """The middle hop begins again, and puts the root that it was called with in front."""
    first = record_of(Message(chain.svids["reasoner"]))
    own = replace(first, iss=SpiffeId.parse(spiffe_id("reasoner")), cid=chain.cid)
    return chain.root(), chain.seal("reasoner", own)


def a_thousand_calls_deep(chain: Chain) -> tuple[SealedRecord, ...]:
    root = chain.root()
    return root, chain.hop(root, hop=1000)


def longer(chain: Chain, hops: int) -> tuple[SealedRecord, ...]:
    """A loop of the reasoner with itself: every time round is a hop."""
    made = [chain.root()]
    for hop in range(1, hops):
        aud = spiffe_id("tool" if hop == hops - 1 else "reasoner")
        made.append(chain.hop(made[-1], aud=aud))
    return tuple(made)


CHAINS: dict[str, Callable[[Chain], tuple[SealedRecord, ...]]] = {
    "custody_chain spliced": spliced,
    "custody_chain never handed on": truncated,
    "custody_chain hop removed": removed,
    "custody_chain reordered": reordered,
    "custody_unresolved root not first": root_last,
    "custody_chain twice the same": again,
    "custody_chain a second root": a_second_root,
    "custody_chain another chain's number": lambda c: (root := c.root(), c.hop(root, cid=fresh_id())),
    "custody_chain older than its parent": lambda c: (root := c.root(), c.hop(root, iat=root.record.iat - 11)),
    "custody_chain a thousand calls deep": a_thousand_calls_deep,
    "custody_authority beyond its hops": lambda c: longer(replace(c, auth=replace(c.auth, hops=1)), 3),
    "custody_authority limit is over": lambda c: (
        root := c.root(iat=int(time.time()) - 30, auth=replace(c.auth, exp=int(time.time()) - 1)),
        c.hop(root),
    ),
    "custody_expired older than a quarter of an hour": lambda c: (
        root := c.root(iat=int(time.time()) - 920, exp=int(time.time()) - 890),
        c.hop(root),
    ),
    "custody_identity the caller's own record": lambda c: (c.root(aud=spiffe_id("tool")),),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_that_does_not_hold_together_is_refused(guarded: Guarded, chain: Chain, name: str) -> None:
    made = CHAINS[name](chain)
    guarded.refuses(chain.svids["reasoner"], chain.wire(*made), name.split(maxsplit=1)[0])
    guarded.accepts(chain.svids["reasoner"], chain.wire())


def test_a_chain_in_which_every_record_is_right_is_as_long_as_the_bound(guarded: Guarded, chain: Chain) -> None:
    guarded.accepts(chain.svids["reasoner"], chain.wire(*longer(chain, 8)))
    *ancestors, newest = longer(chain, 9)
    fields = [("host", "x"), *Message(chain.svids["reasoner"]).headers, ("custody-record", newest.text)]
    fields += [(CHAIN, ",".join(each.text for each in ancestors)), *format_certificates([])]
    guarded.refuses(chain.svids["reasoner"], http_request("POST", "/mcp", fields, b"{}"), "custody_too_long")


def test_an_ancestor_that_is_remembered_is_not_taken_under_a_junk_seal(guarded: Guarded, chain: Chain) -> None:
    """The receiver skips what it verified before only if every byte is the same, and logs and forwards only that."""
    root = chain.root()
    guarded.accepts(chain.svids["reasoner"], chain.wire(root, chain.hop(root)))
    junk = parse_sealed_record(root.text[:-6] + ("AAAAAA" if root.text[-6:] != "AAAAAA" else "BBBBBA"))
    assert junk.hash == root.hash
    guarded.refuses(chain.svids["reasoner"], chain.wire(junk, chain.hop(root)), "custody_signature")
    guarded.accepts(chain.svids["reasoner"], chain.wire(root, chain.hop(root)))


def test_a_record_that_another_leaf_of_the_same_component_seals_again_is_another(
    guarded: Guarded, chain: Chain
) -> None:
    root = chain.root()
    newer = Chain.of(guarded.node, reasoner=chain.svids["reasoner"])
    again = newer.seal("orchestrator", root.record)
    assert again.hash != root.hash
    guarded.refuses(chain.svids["reasoner"], newer.wire(again, chain.hop(root)), "custody_chain")


def test_a_stolen_chain_is_continued_by_nobody_else(guarded: Guarded, chain: Chain) -> None:
    """The thief's key, connection and record are right, but the chain was handed to the reasoner."""
    chain.svids["thief"] = guarded.node.authority.issue(spiffe_id("thief"))
    root = chain.root()
    guarded.refuses(chain.svids["thief"], chain.wire(root, chain.hop(root, "thief")), "custody_chain")


def test_a_component_that_may_not_start_chains_is_no_root(guarded: Guarded) -> None:
    reasoner = guarded.node.authority.issue(spiffe_id("reasoner"))
    message = Message(reasoner).changed(iss=SpiffeId.parse(spiffe_id("reasoner")))
    guarded.refuses(reasoner, message.wire(), "custody_authority")


# --- what the caller's broker refuses


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "tool.crm.evil.example"}, "unknown_peer"),
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
