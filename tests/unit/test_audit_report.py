"""What the auditor says of evidence that holds: every fact of every hop, the same years later."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from audit_attacks import ATTESTOR, OBO, TH, TRUST_ATTESTOR, attestor_says
from audit_scene import TOKEN, USER, Scene, hash_of, hops, pem_of, seal, tell, trust_file, witnessed
from hopseal.custody.authority import Narrowing
from hopseal.custody.delegation import Approval, Continuation
from hopseal.custody.evidence_statement import Verdict as AttestorVerdict
from hopseal.custody.outcome import Fin
from hopseal.custody.seal import Signer, seal_statements, thumbprint
from hopseal.custody.statement import encode_statement
from hopseal.log.audit.codes import message_of
from hopseal.log.audit.report import Verdict, verdict_of, worst
from hopseal.log.audit.trust import parse_trust
from hopseal.log.bundle import Artifact, EvidenceBundle
from hopseal.log.entries import Direction
from hopseal.log.judge import Finding
from vectors import pki
from vectors.pki import CA_UNTIL, NOW, spiffe
from vectors.scene import random_id, some_hash


def test_a_task_over_two_nodes_is_verified_years_later() -> None:
    story = witnessed()
    report = story.scene.audit()
    assert report.verdict is Verdict.VERIFIED
    assert report.logs == (story.scene.left.origin, story.scene.right.origin)
    assert report == story.scene.audit(now=NOW + 3)


def test_each_hop_tells_what_is_proven_about_it() -> None:
    story = witnessed(att=Narrowing(hops=1), apv=(Approval("ciba", "a1", some_hash("consent"), USER, NOW),))
    found = hops(story.scene.audit())[hash_of(story.lookup)]
    assert (found.sealed.record.iat, found.at) == (NOW, NOW + 2)
    assert found.authority_before is not None
    assert found.authority_after == replace(found.authority_before, hops=1)
    assert [each.direction for each in found.entries] == [Direction.SENT, Direction.RECEIVED]
    assert [(each.hash, each.record) for each in found.based_on] == [(hash_of(story.told), hash_of(story.ask))]
    (receipt,) = found.answers
    assert (receipt.kind, receipt.outcome.st, receipt.at, receipt.verdict) == ("rcp", 200, NOW + 2, Verdict.VERIFIED)


def test_the_authority_may_rotate_twice_between_signing_and_auditing() -> None:
    scene = Scene().begin()
    texts = []
    names = ["prod CA", "second CA", "third CA"]
    for number, name in enumerate(names):
        authority = pki.authority(name)
        party = pki.svid(spiffe("shell"), name, valid_from=scene.at - 60, valid_until=scene.at + 3_600)
        callee = pki.svid(spiffe("orchestrator"), name, valid_from=scene.at - 60, valid_until=scene.at + 3_600)
        scene.parties |= {"shell": party, "orchestrator": callee}
        if number:
            scene.left.bundle(scene.at, authority.der)
            scene.witness()
        for each in (party, callee):
            scene.left.certificate(each.der, scene.at)
        scene.at += 20
        scene.cid = random_id(name)
        texts.append(scene.call("shell", "orchestrator"))
        scene.answer(texts[-1])
        scene.witness()
        scene.at += 7_200
    assert scene.at < CA_UNTIL
    report = scene.audit()
    assert [chain.verdict for chain in report.chains] == [Verdict.VERIFIED] * 3


def test_a_users_task_names_the_user_and_the_token_that_fits() -> None:
    scene = Scene(obo=OBO).begin()
    text = scene.call("shell", "orchestrator")
    scene.answer(text)
    scene.left.write(NOW, type="token", th=TH, kid="k1", claims=TOKEN | {"req_wl": spiffe("shell")})
    scene.witness()
    report = scene.audit()
    assert report.verdict is Verdict.VERIFIED
    hop = hops(report)[hash_of(text)]
    assert hop.token is True
    assert hop.sealed.record.obo is not None
    assert hop.sealed.record.obo.sub == USER


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [
        ({"cnf": {"x5t#S256": thumbprint(pki.SHELL.der)}}, Verdict.VERIFIED),
        ({"cnf": {"x5t#S256": thumbprint(pki.REASONER.der)}}, Verdict.REFUSED),
        ({"client_id": spiffe("shell")}, Verdict.VERIFIED),
        ({"cnf": {"jkt": "x"}, "client_id": spiffe("shell")}, Verdict.REFUSED),
        ({"cnf": "x", "client_id": spiffe("shell")}, Verdict.REFUSED),
        ({"client_id": spiffe("shell"), "act": {"sub": spiffe("reasoner")}}, Verdict.VERIFIED),
        ({"act": {"sub": spiffe("shell")}}, Verdict.VERIFIED),
        ({"act": {"sub": spiffe("reasoner")}}, Verdict.REFUSED),
        ({"act": "shell"}, Verdict.REFUSED),
        ({}, Verdict.REFUSED),
        ({"client_id": spiffe("shell"), "txn": "another"}, Verdict.REFUSED),
    ],
)
def test_a_token_names_its_workload_in_one_of_several_ways(claims: dict[str, object], verdict: Verdict) -> None:
    scene = Scene(obo=OBO).begin()
    scene.answer(scene.call("shell", "orchestrator"))
    scene.left.write(NOW, type="token", th=TH, kid="k1", claims=TOKEN | claims)
    assert scene.witness().audit().verdict is verdict


def test_what_an_accepted_attestor_said_is_told() -> None:
    story = tell()
    left = story.scene.left
    left.certificate(ATTESTOR.der, NOW)
    said = attestor_says(story.scene, AttestorVerdict.ATTESTED)
    left.statement(seal(said, ATTESTOR), "received", NOW)
    story.scene.witness()
    with_attestor, without_one = story.scene.audit(trust=TRUST_ATTESTOR), story.scene.audit()
    assert with_attestor.verdict is without_one.verdict is Verdict.VERIFIED
    assert hops(with_attestor)[hash_of(story.ask)].evidence == said
    assert hops(without_one)[hash_of(story.ask)].evidence is None


def test_an_attestor_that_nobody_named_withdraws_nothing() -> None:
    story = tell()
    left = story.scene.left
    left.certificate(ATTESTOR.der, NOW)
    left.statement(seal(attestor_says(story.scene, AttestorVerdict.WITHDRAWN), ATTESTOR), "received", NOW)
    story.scene.witness()
    assert story.scene.audit().verdict is Verdict.VERIFIED
    assert story.scene.audit(trust=TRUST_ATTESTOR).verdict is Verdict.REFUSED


def test_a_revocation_from_later_takes_nothing_away() -> None:
    story = tell()
    story.scene.left.write(NOW + 60, type="revoke", id=spiffe("shell"), x5t=None, since=NOW + 3, why="stolen")
    assert story.scene.witness().audit().verdict is Verdict.VERIFIED


def test_a_stream_with_its_end_is_verified() -> None:
    story = tell()
    text = story.scene.call("shell", "orchestrator", bm="stream")
    story.scene.close(text)
    story.scene.answer(text)
    story.scene.witness()
    report = story.scene.audit()
    assert report.verdict is Verdict.VERIFIED
    (closing,) = hops(report)[hash_of(text)].closings
    assert (closing.claims.length, closing.verdict) == (9, Verdict.VERIFIED)


def test_a_call_to_the_outside_is_observed_and_not_verified() -> None:
    scene = Scene().begin()
    first = scene.call("shell", "orchestrator")
    outside = scene.call("orchestrator", "https://api.crm.example.com", first)
    seen = scene.observe(outside)
    scene.answer(first, seen)
    report = scene.witness().audit()
    assert report.verdict is Verdict.OBSERVED
    hop = hops(report)[hash_of(outside)]
    assert (hop.verdict, hop.is_observed, hops(report)[hash_of(first)].verdict) == (
        Verdict.OBSERVED,
        True,
        Verdict.VERIFIED,
    )
    assert [(each.kind, each.verdict, each.host) for each in hop.answers] == [
        ("obs", Verdict.VERIFIED, "api.crm.example.com")
    ]


def test_more_than_eight_sub_calls_are_a_tree() -> None:
    scene = Scene().begin()
    first = scene.call("shell", "orchestrator")
    made = [scene.answer(scene.call("orchestrator", "crm-connector", first)) for _ in range(9)]
    scene.answer(first, *made)
    assert scene.witness().audit().verdict is Verdict.VERIFIED


def test_a_sub_call_that_was_answered_after_its_parent_need_not_be_listed() -> None:
    scene = Scene().begin()
    first = scene.call("shell", "orchestrator")
    late = scene.call("orchestrator", "crm-connector", first)
    scene.answer(first)
    scene.answer(late)
    assert scene.witness().audit().verdict is Verdict.VERIFIED


def test_without_the_callees_log_the_receipts_own_times_say_which_came_first() -> None:
    scene = Scene().begin()
    first = scene.call("shell", "orchestrator")
    inner = scene.call("orchestrator", "crm-connector", first)
    scene.answer(inner)
    scene.at += 1
    done = scene.answer(first)
    scene.witness()
    bundle = scene.bundle()
    flipped = tuple(
        replace(each, seen=tuple(replace(seen, direction=Direction.SENT) for seen in each.seen))
        for each in bundle.statements
    )
    report = scene.audit(replace(bundle, statements=flipped))
    (answer,) = hops(report)[hash_of(first)].answers
    assert answer.hash == hash_of(done)
    assert answer.finding is not None
    assert answer.finding.code == "audit_kids"


def test_a_refused_call_has_its_refusal_in_place_of_the_receivers_copy() -> None:
    story = tell()
    scene = story.scene
    text = seal(scene.record("orchestrator", "reasoner", story.first), pki.ORCHESTRATOR)
    scene.left.statement(text, "sent", NOW)
    scene.left.statement(text, "received", NOW, verdict="refused", code="custody_forbidden", detail="policy")
    scene.answer(text, fin=Fin.DENY, st=403)
    report = scene.witness().audit()
    (chain,) = report.chains
    assert chain.verdict is Verdict.VERIFIED
    assert [(each.code, each.unverified_iss) for each in chain.refusals] == [
        ("custody_forbidden", spiffe("orchestrator"))
    ]


def test_a_denial_is_enough_where_the_refusal_itself_is_not_here() -> None:
    story = tell()
    text = seal(story.scene.record("orchestrator", "crm-connector", story.first), pki.ORCHESTRATOR)
    story.scene.left.statement(text, "sent", NOW)
    story.scene.answer(text, fin=Fin.DENY, st=403)
    assert story.scene.witness().audit().verdict is Verdict.VERIFIED


def test_a_refused_receipt_is_told_as_a_refusal() -> None:
    story = tell()
    story.scene.left.statement(story.told, "received", NOW, verdict="refused", code="custody_signature")
    (chain,) = story.scene.witness().audit().chains
    assert [(each.code, each.unverified_jti) for each in chain.refusals] == [("custody_signature", None)]


@pytest.mark.parametrize("why", ["resume", "queue", "boundary"])
def test_a_chain_that_continues_another_is_verified_with_it(why: str) -> None:
    story = tell()
    scene = story.scene
    earlier = Continuation(hash_of(story.lookup if why == "resume" else story.ask), scene.cid, why)
    scene.cid = random_id("continued")
    caller = "orchestrator" if why == "resume" else "reasoner"
    text = scene.call(caller, "crm-connector", cont=earlier)
    scene.answer(text)
    scene.witness()
    assert scene.audit().verdict is Verdict.VERIFIED


def test_a_partner_need_not_have_what_is_behind_the_boundary() -> None:
    scene = Scene().begin()
    text = scene.call("shell", "orchestrator", cont=Continuation(some_hash("inner"), random_id("inner"), "boundary"))
    scene.answer(text)
    assert scene.witness().audit().verdict is Verdict.VERIFIED


def test_pinned_authorities_vouch_without_a_logged_bundle() -> None:
    trust = parse_trust(json.dumps(trust_file(bundles="pinned", pem=pem_of(pki.PROD_CA))).encode())
    story = witnessed()
    kept = tuple(each for each in story.scene.bundle().artifacts if '"type":"bundle"' not in each.json)
    bundle = replace(story.scene.bundle(), artifacts=kept)
    assert story.scene.audit(bundle, trust=trust).verdict is Verdict.VERIFIED
    assert story.scene.audit(bundle).verdict is Verdict.INCOMPLETE


def test_a_policy_without_witnesses_proves_no_time() -> None:
    story = witnessed()
    report = story.scene.audit(policy=story.scene.policy("quorum none"))
    assert report.verdict is Verdict.INCOMPLETE
    assert all("witness" in hop.missing for hop in hops(report).values())


def test_a_revocation_counts_even_against_a_record_without_a_proven_time() -> None:
    story = tell()
    story.scene.left.write(NOW, type="revoke", id=spiffe("shell"), x5t=None, since=NOW + 900, why="stolen")
    story.scene.witness()
    trust = parse_trust(json.dumps(trust_file(bundles="pinned", pem=pem_of(pki.PROD_CA))).encode())
    report = story.scene.audit(replace(story.scene.bundle(), proofs={}), trust=trust)
    found = hops(report)[hash_of(story.first)].finding
    assert found is not None
    assert (found.step, found.code) == (5, "audit_revoked")


def test_a_token_without_a_proof_counts_for_nothing() -> None:
    scene = Scene(obo=OBO).begin()
    text = scene.call("shell", "orchestrator")
    scene.answer(text)
    scene.left.write(NOW, type="token", th=TH, kid="k1", claims=TOKEN | {"req_wl": spiffe("shell")})
    scene.witness()
    bundle = scene.bundle()
    proofs = {key: texts for key, texts in bundle.proofs.items() if not key.startswith("token.")}
    report = scene.audit(replace(bundle, proofs=proofs))
    assert hops(report)[hash_of(text)].token is False
    assert f"token:{TH}" in hops(report)[hash_of(text)].missing


def test_statements_under_one_seal_are_each_verified() -> None:
    story = tell()
    scene = story.scene
    records = [scene.record("orchestrator", "reasoner", story.first) for _ in range(3)]
    signer = Signer(pki.ORCHESTRATOR.der, pki.ORCHESTRATOR.key, deterministic=True)
    for text in seal_statements([encode_statement(each) for each in records], signer):
        scene.log_call(text, "orchestrator", "reasoner")
        scene.answer(text)
    assert scene.witness().audit().verdict is Verdict.VERIFIED


def test_other_entries_beside_statements_are_read_and_left_alone() -> None:
    story = witnessed()
    bundle = story.scene.bundle()
    start = Artifact(story.scene.left.origin, 0, story.scene.left.lines[0].decode())
    report = story.scene.audit(replace(bundle, artifacts=(*bundle.artifacts, start)))
    assert report.missing == (f"proof:{story.scene.left.origin}/0",)
    assert report.problems == ()


def test_a_refused_evidence_statement_is_no_refusal_of_a_call() -> None:
    story = tell()
    said = seal(attestor_says(story.scene, AttestorVerdict.ATTESTED), ATTESTOR)
    index = story.scene.left.statement(said, "received", NOW, verdict="refused")
    story.scene.witness()
    bundle = story.scene.bundle()
    line = Artifact(story.scene.left.origin, index, story.scene.left.lines[index].decode())
    report = story.scene.audit(replace(bundle, artifacts=(*bundle.artifacts, line)))
    assert [each.finding.code for each in report.problems] == ["custody_malformed"]


def test_only_the_auditors_own_codes_have_a_sentence() -> None:
    assert message_of("audit_fork") == "a log shows two histories"
    assert message_of("custody_chain") == ""


def test_an_answer_that_is_cited_twice_is_missing_once() -> None:
    story = witnessed(based_on=(some_hash("gone"),) * 2)
    assert hops(story.scene.audit())[hash_of(story.lookup)].missing == (f"in:{some_hash('gone')}",)


def test_an_empty_bundle_is_not_verified() -> None:
    report = Scene().audit(EvidenceBundle())
    assert (report.verdict, report.chains, report.statements) == (Verdict.INCOMPLETE, (), 0)


def test_a_statement_given_twice_is_judged_once() -> None:
    story = witnessed()
    bundle = story.scene.bundle()
    assert story.scene.audit(replace(bundle, statements=bundle.statements * 2)) == story.scene.audit()


def test_verdicts_add_up_to_the_worst() -> None:
    assert worst([]) is Verdict.VERIFIED
    assert worst([Verdict.VERIFIED, Verdict.INCOMPLETE]) is Verdict.INCOMPLETE
    assert worst([Verdict.REFUSED, Verdict.INCOMPLETE]) is Verdict.REFUSED
    assert verdict_of(None, ()) is Verdict.VERIFIED
    assert verdict_of(None, ("receipt",)) is Verdict.INCOMPLETE
    assert verdict_of(Finding(1, "custody_unresolved"), ()) is Verdict.INCOMPLETE
    assert verdict_of(Finding(1, "custody_identity"), ("receipt",)) is Verdict.REFUSED


def test_records_that_all_say_the_same_hop_are_not_followed_for_ever() -> None:
    scene = Scene().begin()
    text = scene.call("shell", "orchestrator")
    for _ in range(1_100):
        record = scene.record("orchestrator", "orchestrator", text, hop=1)
        text = seal(record, pki.ORCHESTRATOR)
        scene.left.statement(text, "sent", NOW)
    assert scene.witness().audit().verdict is Verdict.REFUSED


def test_a_token_as_deep_as_one_may_be_is_read_in_a_log() -> None:
    context: object = 1
    for _ in range(15):
        context = {"n": context}
    scene = Scene(obo=OBO).begin()
    scene.answer(scene.call("shell", "orchestrator"))
    scene.left.write(NOW, type="token", th=TH, kid="k1", claims=TOKEN | {"req_wl": spiffe("shell"), "rctx": context})
    assert scene.witness().audit().verdict is Verdict.VERIFIED
