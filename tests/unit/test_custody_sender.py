"""Building and sealing records of outgoing calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from custody_calls import AUTHORITY, TASK, Node, begin, call, fresh_id, go_on, root, signer
from hopseal.custody.authority import Authority, Narrowing
from hopseal.custody.delegation import Approval, Continuation, OnBehalfOf
from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.record import Record, encode_record, parse_record, parse_sealed_record
from hopseal.custody.seal import seal_statements
from hopseal.custody.sealing import check_signing_time
from hopseal.custody.sender import build_child, build_root, build_sibling, random_id, seal_records
from hopseal.errors import BugError, UnavailableError
from hopseal.ids import SpiffeId
from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import some_hash


def test_a_chain_of_three_hops_is_accepted_at_each() -> None:
    reasoner, connector = Node("reasoner"), Node("crm-connector")
    first = begin("orchestrator", reasoner)
    second = go_on(first, reasoner, connector, Narrowing(hops=1, ops=("tools/call crm.*",)))
    assert [str(each) for each in second.path] == [spiffe("orchestrator"), spiffe("reasoner")]
    assert second.authority == Authority(exp=NOW + 600, hops=1, ops=("tools/call crm.*",))
    assert second.task == TASK


def test_a_child_keeps_the_chain_and_names_its_parent() -> None:
    reasoner = Node("reasoner")
    first = begin("orchestrator", reasoner)
    child = build_child(call("reasoner", "crm-connector"), first)
    assert (child.prev, child.cid, child.hop) == (first.newest.hash, first.newest.record.cid, 1)
    assert child.root_claims == frozenset()


def test_only_the_receiver_of_a_record_may_continue_it() -> None:
    first = begin("orchestrator", Node("reasoner"))
    with pytest.raises(BugError, match="handoff"):
        build_child(call("shell", "crm-connector"), first)


def test_a_child_beyond_the_hops_of_its_authority_is_not_built() -> None:
    first = begin("orchestrator", Node("reasoner"), Authority(exp=NOW + 60, hops=0))
    with pytest.raises(CustodyError) as refused:
        build_child(call("reasoner", "crm-connector"), first)
    assert refused.value.code == Code.AUTHORITY


def test_a_child_that_widens_is_not_built() -> None:
    first = begin("orchestrator", Node("reasoner"))
    with pytest.raises(CustodyError) as refused:
        build_child(call("reasoner", "crm-connector"), first, Narrowing(hops=6))
    assert refused.value.code == Code.AUTHORITY


def test_a_ninth_record_is_not_built() -> None:
    nodes = [Node("reasoner"), Node("orchestrator")]
    accepted = begin("orchestrator", nodes[0], Authority(exp=NOW + 600, hops=20))
    for hop in range(7):
        accepted = go_on(accepted, nodes[hop % 2], nodes[(hop + 1) % 2])
    with pytest.raises(CustodyError) as refused:
        build_child(call("orchestrator", "reasoner"), accepted)
    assert refused.value.code == Code.TOO_LONG


def test_a_sibling_shares_chain_task_and_authority_but_nothing_else() -> None:
    first = root("orchestrator", "reasoner")
    second = build_sibling(call("orchestrator", "crm-connector"), first)
    assert (second.cid, second.task, second.auth, second.obo, second.hop) == (first.cid, TASK, AUTHORITY, None, 0)
    assert second.root_claims == first.root_claims
    assert second.jti != first.jti
    assert parse_record(encode_record(second)) == second


@pytest.mark.parametrize("change", [{"iss": SpiffeId.parse(spiffe("shell"))}, {"hop": 1}, {"auth": None}])
def test_a_sibling_of_another_components_root_is_a_bug(change: dict[str, object]) -> None:
    with pytest.raises(BugError, match="sibling"):
        build_sibling(call("orchestrator", "reasoner"), replace(root("orchestrator", "reasoner"), **change))


def test_a_sibling_after_the_authority_expired_is_not_built() -> None:
    first = root("orchestrator", "reasoner")
    with pytest.raises(CustodyError) as refused:
        build_sibling(call("orchestrator", "reasoner", iat=NOW + 600), first)
    assert refused.value.code == Code.AUTHORITY


@pytest.mark.parametrize(("lifetime_s", "fits"), [(3600, True), (3601, False)])
def test_a_root_grants_an_hour_at_most(lifetime_s: int, fits: bool) -> None:
    def build() -> Record:
        authority = Authority(exp=NOW + lifetime_s, hops=1)
        return build_root(call("orchestrator", "reasoner"), cid=fresh_id(), task=TASK, auth=authority)

    if fits:
        assert build().auth == Authority(exp=NOW + lifetime_s, hops=1)
    else:
        with pytest.raises(CustodyError):
            build()


def test_a_root_beyond_its_own_authority_is_not_built() -> None:
    with pytest.raises(CustodyError) as refused:
        root("orchestrator", "reasoner", Authority(exp=NOW + 60, hops=0, aud=(spiffe("crm-connector"),)))
    assert refused.value.code == Code.AUTHORITY


def test_records_keep_their_order_whatever_seal_they_are_under() -> None:
    callees = ("reasoner", "crm-connector", "reasoner")
    records = [root("orchestrator", callees[index % 3]) for index in range(70)]
    records[5] = replace(records[5], aud=spiffe("gateway", pki.PARTNER))
    records[6] = replace(records[6], aud="https://api.example.com")
    texts = seal_records(records, signer(pki.ORCHESTRATOR), NOW)
    assert [parse_sealed_record(text).record for text in texts] == records


def test_a_seal_covers_at_most_32_and_never_receivers_of_different_trust_domains() -> None:
    records = [root("orchestrator", "reasoner") for _ in range(34)]
    records[3] = replace(records[3], aud=spiffe("gateway", pki.PARTNER))
    sealed = [parse_sealed_record(text) for text in seal_records(records, signer(pki.ORCHESTRATOR), NOW)]
    sizes = {each.statement.seal.text: each.statement.seal.n for each in sealed}
    assert sorted(sizes.values()) == [1, 1, 32]
    assert sealed[3].statement.seal.n == 1


@pytest.mark.parametrize("size", [0, 33])
def test_a_seal_of_none_or_too_many_is_a_bug(size: int) -> None:
    with pytest.raises(BugError, match="seal_size"):
        seal_statements([b"{}"] * size, signer(pki.REASONER))


def test_random_nonces_give_another_text_and_the_same_statement_hash() -> None:
    record = root("orchestrator", "reasoner")
    random_signer = replace(signer(pki.ORCHESTRATOR), deterministic=False)
    first, second = (seal_records([record], random_signer, NOW)[0] for _ in range(2))
    assert first != second
    assert parse_sealed_record(first).hash == parse_sealed_record(second).hash


@pytest.mark.parametrize(
    ("now", "may"),
    [
        (pki.LEAF_FROM - 1, False),
        (pki.LEAF_FROM, True),
        (pki.LEAF_UNTIL - 30, True),
        (pki.LEAF_UNTIL - 29, False),
        (pki.LEAF_UNTIL + 1, False),
    ],
)
def test_nothing_is_sealed_in_the_last_seconds_of_a_leaf(now: int, may: bool) -> None:
    if may:
        check_signing_time(pki.REASONER.der, now)
    else:
        with pytest.raises(UnavailableError, match="svid_expired"):
            seal_records([root("reasoner", "orchestrator")], signer(pki.REASONER), now)


@pytest.mark.parametrize(("before_end_s", "may"), [(4, True), (3, False)])
def test_a_short_leaf_keeps_a_sixth_of_its_lifetime(before_end_s: int, may: bool) -> None:
    brief = pki.svid(spiffe("reasoner"), valid_from=NOW - 24, valid_until=NOW)
    if may:
        check_signing_time(brief.der, NOW - before_end_s)
    else:
        with pytest.raises(UnavailableError):
            check_signing_time(brief.der, NOW - before_end_s)


def test_an_id_is_made_of_sixteen_random_bytes() -> None:
    assert random_id(bytes(16)) == "A" * 22
    with pytest.raises(BugError):
        random_id(bytes(15))


def test_every_claim_survives_writing_and_reading() -> None:
    full = replace(
        root("orchestrator", "reasoner"),
        bm="stream",
        srv=some_hash("leaf"),
        by=SpiffeId.parse("spiffe://prod.example.org/hopseal/broker/n"),
        op="tools/call ü",
        based_on=(some_hash("receipt"),),
        att=Narrowing(scope=frozenset({"b", "a"}), exp=1, hops=0, aud=(), ops=("*",)),
        apv=(Approval("ticket", "CHG-1", some_hash("evidence"), "desk", NOW),),
        rr=False,
        tid="0" * 32,
        root_claims=frozenset({"obo", "task", "auth", "cont"}),
        obo=OnBehalfOf("https://tts", "u-1", "txn", some_hash("token"), NOW, "t"),
        cont=Continuation(some_hash("old"), fresh_id(), "queue"),
    )
    assert parse_record(encode_record(full)) == full


def test_claims_are_written_in_the_order_of_the_document() -> None:
    assert encode_record(root("orchestrator", "reasoner")).startswith(b'{"v":1,"t":"rec","iss":"spiffe://')
