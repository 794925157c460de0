"""Chains judged apart: the same report as at once, or it is seen that they are not apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from audit_attacks import ATTACKS, ATTESTOR, TRUST_ATTESTOR, Attack, attestor_says
from audit_scene import PARTIES, YEARS_LATER, Scene, hash_of, seal, several_chains, without, witnessed
from hopseal.custody.delegation import Continuation
from hopseal.custody.evidence_statement import Verdict as AttestorVerdict
from hopseal.custody.record import parse_sealed_record
from hopseal.custody.seal import Signer, seal_statements
from hopseal.custody.statement import encode_statement
from hopseal.log.audit.report import ChainAudit, Verdict
from hopseal.log.audit.run import Auditor, Judgement, audit_bundle, stand_alone
from hopseal.log.audit.shares import are_apart
from hopseal.log.audit.trust import TrustPolicy
from hopseal.log.bundle import EvidenceBundle, LoggedStatement
from vectors.pki import NOW, Party
from vectors.scene import random_id

CHAINS = len(several_chains()[1])


def itself(chain: ChainAudit) -> ChainAudit:
    return chain


def auditor_of(scene: Scene, bundle: EvidenceBundle | None = None, trust: TrustPolicy | None = None) -> Auditor:
    bundle = bundle or scene.witness().bundle()
    return Auditor(bundle, scene.policy(), trust or TrustPolicy(), YEARS_LATER, share_size=1)


def judge_all(auditor: Auditor) -> list[Judgement[ChainAudit]]:
    return [auditor.judge(share, itself) for share in auditor.shares]


def with_claim(text: bytes, claim: bytes) -> bytes:
    return text[:-1] + claim + b"}"


def seal_bytes(payload: bytes, party: Party) -> str:
    return seal_statements([payload], Signer(party.der, party.key))[0]


def test_shares_may_be_judged_in_any_order_and_give_the_same_report() -> None:
    scene, _ = several_chains()
    auditor = auditor_of(scene)
    assert len(auditor.shares) == CHAINS
    judged = judge_all(auditor)
    assert stand_alone(judged)
    assert auditor.join(judged[::-1]) == scene.audit()
    assert [each.verdict for each in scene.audit().chains] == [Verdict.VERIFIED] * CHAINS


def test_a_share_is_of_about_the_size_asked_for() -> None:
    scene, _ = several_chains()
    bundle = scene.witness().bundle()
    for size, sizes in ((1, [4, 4, 4]), (4, [4, 4, 4]), (5, [8, 4]), (100, [12])):
        auditor = Auditor(bundle, scene.policy(), TrustPolicy(), YEARS_LATER, share_size=size)
        assert [len(each) for each in auditor.shares] == sizes
        assert auditor.join(judge_all(auditor)) == scene.audit()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_what_is_found_apart_is_what_is_found_at_once(attack: Attack) -> None:
    tampered = attack.make()
    inputs = (tampered.bundle, tampered.policy, tampered.trust, tampered.now)
    auditor = Auditor(*inputs, share_size=1)
    judged = judge_all(auditor)
    assert not stand_alone(judged) or auditor.join(judged) == audit_bundle(*inputs)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_chain_that_was_torn_apart_does_not_stand_alone(size: int) -> None:
    story = witnessed()
    auditor = auditor_of(story.scene)
    (whole,) = auditor.shares
    auditor.shares = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert not stand_alone(judge_all(auditor))


def test_a_chain_is_judged_with_those_that_it_continues() -> None:
    scene, roots = several_chains()
    scene.cid = random_id("continued")
    scene.answer(
        scene.call("shell", "orchestrator", cont=Continuation(hash_of(roots[1]), random_id("chain 1"), "resume"))
    )
    auditor = auditor_of(scene)
    assert sorted(map(len, auditor.shares)) == [4, 4, 6]
    judged = judge_all(auditor)
    assert stand_alone(judged)
    assert auditor.join(judged) == scene.audit()


def test_statements_of_no_chain_and_texts_that_are_none_are_told_once() -> None:
    scene, _ = several_chains()
    scene.left.certificate(ATTESTOR.der, NOW)
    scene.left.statement(seal(attestor_says(scene, AttestorVerdict.ATTESTED), ATTESTOR), "received", NOW)
    bundle = scene.witness().bundle()
    none = tuple(LoggedStatement(text, ()) for text in ("none", "ü", bundle.statements[0].sealed[:-9], "A.B.C.D.E"))
    bundle = replace(bundle, statements=(*bundle.statements, *none))
    auditor = auditor_of(scene, bundle, TRUST_ATTESTOR)
    judged = judge_all(auditor)
    assert stand_alone(judged)
    joined, at_once = auditor.join(judged), scene.audit(bundle, trust=TRUST_ATTESTOR)
    assert joined == at_once
    assert (joined.statements, len(joined.unread)) == (4 * CHAINS + 1, len(none))


def test_chains_without_a_record_come_last_in_the_same_order() -> None:
    scene, roots = several_chains()
    for number in range(4):
        scene.cid = random_id(f"loose {number}")
        roots.append(scene.call("shell", "orchestrator"))
        scene.answer(roots[-1])
    bundle = without(scene.witness().bundle(), *roots[CHAINS:])
    auditor = auditor_of(scene, bundle)
    judged = judge_all(auditor)
    assert stand_alone(judged)
    joined = auditor.join(judged)
    assert joined == scene.audit(bundle)
    assert [len(each.loose) for each in joined.chains] == [0, 0, 0, 1, 1, 1, 1]


def test_an_empty_bundle_has_one_empty_share() -> None:
    auditor = Auditor(EvidenceBundle(), Scene().policy(), TrustPolicy(), YEARS_LATER, share_size=1)
    assert auditor.shares == [[]]
    assert auditor.join(judge_all(auditor)) == Scene().audit(EvidenceBundle())


# What connects chains without either naming the other's ID.


def one_jti(scene: Scene, roots: list[str]) -> None:
    jti = parse_sealed_record(roots[0]).record.jti
    scene.cid = random_id("another")
    scene.call("shell", "orchestrator", jti=jti)


def a_citation(scene: Scene, roots: list[str]) -> None:
    scene.cid = random_id("another")
    scene.call("shell", "orchestrator", based_on=(hash_of(roots[0]),))


def a_parent(scene: Scene, roots: list[str]) -> None:
    scene.cid = random_id("another")
    scene.call("orchestrator", "reasoner", roots[0], cid=scene.cid)


def a_receipt(scene: Scene, roots: list[str]) -> None:
    scene.answer(roots[0], cid=random_id("another"))


def a_closing(scene: Scene, roots: list[str]) -> None:
    scene.close(roots[0], cid=random_id("another"))


def a_listed_receipt(scene: Scene, roots: list[str]) -> None:
    scene.cid = random_id("another")
    root = scene.call("shell", "orchestrator")
    scene.answer(root, roots[0])


def a_name_of_the_chain_that_is_escaped(scene: Scene, roots: list[str]) -> None:
    """Another may read it, so the statement goes to all shares, where it turns out to be of a chain."""
    record = scene.record("orchestrator", "reasoner", roots[0], cid=random_id("chain 0"))
    payload = encode_statement(record).replace(b'"cid"', rb'"\u0063id"')
    scene.log_call(seal_bytes(payload, PARTIES["orchestrator"]), "orchestrator", "reasoner")


def evidence_that_names_a_chain(scene: Scene, _roots: list[str]) -> None:
    """A withdrawal counts for all chains, so it must not be judged in the share of one."""
    scene.left.certificate(ATTESTOR.der, NOW)
    said = encode_statement(attestor_says(scene, AttestorVerdict.WITHDRAWN))
    payload = with_claim(said, b',"cid":"%s"' % random_id("chain 0").encode())
    scene.left.statement(seal_bytes(payload, ATTESTOR), "received", NOW)


@pytest.mark.parametrize(
    "connect",
    [
        one_jti,
        a_citation,
        a_parent,
        a_receipt,
        a_closing,
        a_listed_receipt,
        a_name_of_the_chain_that_is_escaped,
        evidence_that_names_a_chain,
    ],
    ids=lambda connect: connect.__name__,
)
def test_chains_that_have_to_do_with_each_other_do_not_stand_alone(connect: Callable[[Scene, list[str]], None]) -> None:
    scene, roots = several_chains()
    connect(scene, roots)
    auditor = auditor_of(scene, trust=TRUST_ATTESTOR)
    judged = judge_all(auditor)
    assert not stand_alone(judged)
    assert scene.audit(trust=TRUST_ATTESTOR).verdict is not Verdict.VERIFIED


def test_a_log_that_shows_each_chain_another_history_is_seen() -> None:
    """Each alone is consistent; both together are two trees of one size, or two entries at one place."""

    def history(name: str) -> Scene:
        scene = Scene(cid=random_id(name)).begin()
        scene.answer(scene.call("shell", "orchestrator"))
        return scene.witness()

    bundles = [history(name).bundle() for name in ("one", "two")]
    statements = tuple(each for bundle in bundles for each in bundle.statements)
    proofs = bundles[0].proofs | bundles[1].proofs  # type: ignore[operator]
    auditor = auditor_of(Scene(), replace(bundles[0], statements=statements, proofs=proofs))
    judged = judge_all(auditor)
    assert len(judged) == len(bundles)
    # What is given to every share, trust bundles for one, stands in either tree.
    assert [each.report.verdict for each in judged] == [Verdict.REFUSED, Verdict.REFUSED]
    assert not stand_alone(judged)
    assert not are_apart([replace(each.traces, own=frozenset({str(number)})) for number, each in enumerate(judged)])
