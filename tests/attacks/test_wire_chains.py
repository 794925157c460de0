"""Keys, connections and chains that do not belong together, against a running data plane: custody-wire §14."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from custody_forging import Chain, record_of
from custody_refusals import Guarded, guarding, statements_in
from dataplane_nodes import TRUST_DOMAIN, Node, call, pair, spiffe_id
from dataplane_peer import Message, connected, context, fresh_id, http_request
from dataplane_server import Peer
from hopseal.custody.headers import CHAIN, format_certificates
from hopseal.custody.record import SealedRecord, parse_sealed_record
from hopseal.ids import SpiffeId
from hopseal.log.entries import RecordEntry
from hopseal.svid import X509Svid
from svid_authority import Authority
from waiting import wait_until

pytestmark = pytest.mark.process

PARTNER = "partner.example"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with guarding(tmp_path) as made:
        yield made


@pytest.fixture
def svid(guarded: Guarded) -> X509Svid:
    return guarded.node.authority.issue(spiffe_id("orchestrator"))


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
