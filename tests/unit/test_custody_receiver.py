"""What a receiver keeps between requests, and what it refuses because of it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from custody_calls import AUTHORITY, PROD, TASK, Node, begin, call, fresh_id, go_on, root, signer
from hopseal.bundle import Bundle
from hopseal.custody import verification
from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.seal import Seal, parse_sealed, verify_signature
from hopseal.custody.sender import build_child, build_sibling, seal_records
from hopseal.ids import TrustDomain
from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import twin


def code_of(error: pytest.ExceptionInfo[CustodyError]) -> str:
    return error.value.code


def test_the_same_request_twice_passes_once() -> None:
    node = Node("reasoner")
    text = seal_records([root("orchestrator", "reasoner")], signer(pki.ORCHESTRATOR), NOW)[0]
    node.receive(text, (), pki.ORCHESTRATOR)
    with pytest.raises(CustodyError) as refused:
        node.receive(text, (), pki.ORCHESTRATOR)
    assert code_of(refused) == Code.REPLAYED


def test_the_same_statement_under_a_twin_signature_is_a_replay() -> None:
    node = Node("reasoner")
    text = seal_records([root("orchestrator", "reasoner")], signer(pki.ORCHESTRATOR), NOW)[0]
    node.receive(text, (), pki.ORCHESTRATOR)
    with pytest.raises(CustodyError) as refused:
        node.receive(twin(text), (), pki.ORCHESTRATOR)
    assert code_of(refused) == Code.REPLAYED


def test_a_refused_request_does_not_use_up_its_record() -> None:
    node = Node("reasoner", accept_path=lambda _path: False)
    text = seal_records([root("orchestrator", "reasoner")], signer(pki.ORCHESTRATOR), NOW)[0]
    with pytest.raises(CustodyError) as refused:
        node.receive(text, (), pki.ORCHESTRATOR)
    assert code_of(refused) == Code.FORBIDDEN
    node.accept_path = lambda _path: True
    assert node.receive(text, (), pki.ORCHESTRATOR).newest.text == text


def test_ancestors_and_certificates_of_an_accepted_request_need_not_come_again() -> None:
    reasoner, connector = Node("reasoner"), Node("crm-connector")
    first = begin("orchestrator", reasoner)
    go_on(first, reasoner, connector)
    text = seal_records([build_child(call("reasoner", "crm-connector"), first)], signer(pki.REASONER), NOW)[0]
    again = connector.receive(text, (), pki.REASONER)
    assert [each.sealed.text for each in again.chain] == [first.newest.text, text]


def test_a_changed_bundle_makes_ancestors_come_again() -> None:
    reasoner, connector = Node("reasoner"), Node("crm-connector")
    first = begin("orchestrator", reasoner)
    go_on(first, reasoner, connector)
    connector.state.bundle_changed(TrustDomain("elsewhere.example.org"))
    connector.state.bundle_changed(PROD)
    text = seal_records([build_child(call("reasoner", "crm-connector"), first)], signer(pki.REASONER), NOW)[0]
    with pytest.raises(CustodyError) as refused:
        connector.receive(text, (), pki.REASONER)
    assert refused.value.missing == (f"rec:{first.newest.hash}",)


def test_a_bundle_of_another_trust_domain_changes_nothing() -> None:
    reasoner, connector = Node("reasoner"), Node("crm-connector")
    first = begin("orchestrator", reasoner)
    go_on(first, reasoner, connector)
    connector.state.bundle_changed(TrustDomain("elsewhere.example.org"))
    text = seal_records([build_child(call("reasoner", "crm-connector"), first)], signer(pki.REASONER), NOW)[0]
    assert connector.receive(text, (), pki.REASONER).newest.text == text


def test_a_validated_path_is_not_used_with_another_bundle() -> None:
    node = Node("reasoner")
    begin("orchestrator", node)
    node.bundles = {PROD: Bundle(PROD, (pki.PARTNER_CA.der,))}
    with pytest.raises(CustodyError) as refused:
        begin("orchestrator", node)
    assert code_of(refused) == Code.UNTRUSTED


def test_a_validated_path_is_not_used_beyond_its_time() -> None:
    node = Node("reasoner")
    begin("orchestrator", node)
    late = pki.LEAF_UNTIL + 1
    record = build_sibling(call("orchestrator", "reasoner", iat=late), root("orchestrator", "reasoner"))
    text = seal_records([record], signer(pki.ORCHESTRATOR), NOW)[0]
    with pytest.raises(CustodyError) as refused:
        node.receive(text, (), pki.ORCHESTRATOR, now=late)
    assert code_of(refused) == Code.UNTRUSTED


def test_a_signature_is_verified_once_for_each_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def count(seal: Seal, key: object) -> None:
        checked.append(seal.text)
        verify_signature(seal, key)

    monkeypatch.setattr(verification, "verify_signature", count)
    node = Node("reasoner")
    records = [root("orchestrator", "reasoner") for _ in range(3)]
    for text in seal_records(records, signer(pki.ORCHESTRATOR), NOW):
        node.receive(text, (), pki.ORCHESTRATOR)
    assert len(checked) == 1


def test_a_failed_signature_is_not_remembered() -> None:
    node = Node("reasoner")
    text = seal_records([root("orchestrator", "reasoner")], signer(pki.ORCHESTRATOR), NOW)[0]
    front = text.rpartition(".")[0]
    for _ in range(2):
        with pytest.raises(CustodyError) as refused:
            node.receive(f"{front}.{'A' * 86}", (), pki.ORCHESTRATOR)
        assert code_of(refused) == Code.SIGNATURE
    assert len(node.state.verifier.seals) == 0


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
    ],
    ids=["rsa", "ed25519", "p-384"],
)
def test_only_a_p256_key_can_have_made_a_seal(key: object) -> None:
    text = seal_records([root("orchestrator", "reasoner")], signer(pki.ORCHESTRATOR), NOW)[0]
    with pytest.raises(CustodyError, match="P-256") as refused:
        verify_signature(parse_sealed(text).seal, key)
    assert code_of(refused) == Code.SIGNATURE


def test_a_verified_seal_does_not_excuse_a_wrong_path_or_identity() -> None:
    node = Node("reasoner")
    records = [root("orchestrator", "reasoner") for _ in range(2)]
    texts = seal_records(records, signer(pki.ORCHESTRATOR), NOW)
    node.receive(texts[0], (), pki.ORCHESTRATOR)
    first, second = (parse_sealed(text) for text in texts)
    exchanged = f"{second.payload}.{texts[0].split('.')[1]}.{second.seal.text}"
    with pytest.raises(CustodyError) as refused:
        node.receive(exchanged, (), pki.ORCHESTRATOR)
    assert code_of(refused) == Code.SIGNATURE
    assert first.seal == second.seal


def test_several_roots_of_one_chain_come_from_one_component_only() -> None:
    node, cid = Node("reasoner"), fresh_id()
    mine = root("orchestrator", "reasoner", cid=cid)
    sibling = build_sibling(call("orchestrator", "reasoner"), mine)
    for text in seal_records([mine, sibling], signer(pki.ORCHESTRATOR), NOW):
        node.receive(text, (), pki.ORCHESTRATOR)
    text = seal_records([root("shell", "reasoner", cid=cid)], signer(pki.SHELL), NOW)[0]
    with pytest.raises(CustodyError) as refused:
        node.receive(text, (), pki.SHELL)
    assert code_of(refused) == Code.CHAIN


def test_an_accepted_request_tells_path_task_and_authority() -> None:
    accepted = begin("orchestrator", Node("reasoner"))
    assert [str(each) for each in accepted.path] == [spiffe("orchestrator")]
    assert (accepted.task, accepted.authority) == (TASK, AUTHORITY)
