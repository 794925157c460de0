"""Collecting evidence out of logs: whole chains by any question, what it takes to judge them, what is missing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from audit_attacks import ATTESTOR, OBO, TH, attestor_says
from audit_scene import TOKEN, USER, NodeLog, Scene, hash_of, seal, tell, witnessed
from hopseal.custody.delegation import Continuation
from hopseal.custody.evidence_statement import Verdict
from hopseal.custody.seal import thumbprint
from hopseal.log.audit.report import Verdict as AuditVerdict
from hopseal.log.collect import Collected, collect
from hopseal.log.selection import Selection
from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import random_id


def ask(scene: Scene, **question: object) -> Collected:
    return collect((scene.left.source(), scene.right.source()), replace(Selection(), **question))


def kinds(collected: Collected) -> list[str]:
    return sorted(str(json.loads(each.json)["type"]) for each in collected.bundle.artifacts)


def two_chains() -> tuple[Scene, str, str]:
    """A user's task, then another's of nobody, minutes later."""
    story = tell(Scene(obo=OBO))
    scene, first = story.scene, story.scene.cid
    scene.left.write(NOW, type="token", th=TH, kid="k", claims=TOKEN | {"req_wl": spiffe("shell")})
    scene.witness()
    scene.at, scene.obo, scene.cid = NOW + 100, None, random_id("second chain")
    scene.answer(scene.call("shell", "reasoner"))
    scene.witness()
    return scene, first, scene.cid


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ({}, (0, 1)),
        ({"tasks": frozenset({"task-1"})}, (0, 1)),
        ({"tasks": frozenset({"task-2"})}, ()),
        ({"users": frozenset({USER})}, (0,)),
        ({"users": frozenset({"nobody"})}, ()),
        ({"components": frozenset({"crm-assistant/crm-connector"})}, (0,)),
        ({"components": frozenset({spiffe("reasoner")})}, (0, 1)),
        ({"components": frozenset({"assistant/reasoner"})}, ()),
        ({"since": NOW + 100}, (1,)),
        ({"since": NOW + 101}, ()),
        ({"until": NOW}, (0,)),
        ({"until": NOW - 1}, ()),
        ({"users": frozenset({USER}), "components": frozenset({"crm-assistant/crm-connector"})}, (0,)),
    ],
)
def test_chains_are_found_by_each_question(question: dict[str, object], found: tuple[int, ...]) -> None:
    scene, *cids = two_chains()
    assert ask(scene, **question).cids == tuple(cids[each] for each in found)


def test_a_chain_is_taken_whole_and_alone() -> None:
    scene, first, second = two_chains()
    collected = ask(scene, cids=frozenset({second}))
    assert len(collected.bundle.statements) == 2
    assert scene.audit(collected.bundle).verdict is AuditVerdict.VERIFIED
    whole = ask(scene, cids=frozenset({first}))
    assert len(whole.bundle.statements) == 6
    assert scene.audit(whole.bundle).verdict is AuditVerdict.VERIFIED
    assert (whole.unproven, whole.begins, whole.unreadable) == ((), {}, ())


def test_tokens_of_other_chains_stay_where_they_are() -> None:
    scene, first, second = two_chains()
    assert "token" in kinds(ask(scene, cids=frozenset({first})))
    assert "token" not in kinds(ask(scene, cids=frozenset({second})))


def test_a_chain_brings_the_chain_that_it_continues() -> None:
    story = tell()
    scene, first = story.scene, story.scene.cid
    scene.cid = random_id("continued")
    scene.answer(scene.call("orchestrator", "reasoner", cont=Continuation(hash_of(story.first), first, "queue")))
    scene.witness()
    collected = ask(scene, cids=frozenset({scene.cid}))
    assert set(collected.cids) == {first, scene.cid}
    assert scene.audit(collected.bundle).verdict is AuditVerdict.VERIFIED


def test_entries_that_no_checkpoint_covers_are_named() -> None:
    story = witnessed()
    late = story.scene.call("orchestrator", "reasoner", story.first)
    collected = ask(story.scene)
    assert collected.unproven == tuple(f"{story.scene.left.origin}/{len(story.scene.left.lines) - n}" for n in (2, 1))
    assert any(each.sealed == late for each in collected.bundle.statements)


def test_a_pruned_log_says_where_it_begins() -> None:
    story = witnessed()
    source = story.scene.left.source()
    pruned = replace(source, lines=lambda: list(source.lines())[2:])
    assert collect((pruned,), Selection()).begins == {source.origin: 2}


def test_ancestors_that_a_receiver_logged_are_taken_too() -> None:
    story = tell()
    record = seal(story.scene.record("orchestrator", "crm-connector", story.first), pki.ORCHESTRATOR)
    story.scene.right.statement(record, "received", NOW, ancestors=[story.first])
    alone = collect((story.scene.right.source(),), Selection())
    assert {each.sealed for each in alone.bundle.statements} >= {story.first, record}


def test_refusals_of_a_chain_are_taken_as_they_stand() -> None:
    story = tell()
    refusal = {"verdict": "refused", "code": "custody_replayed", "detail": "again"}
    story.scene.left.statement(story.ask, "received", NOW, **refusal)
    story.scene.left.statement(story.ask, "received", NOW, cid=random_id("other"), **refusal)
    story.scene.left.statement(story.ask, "received", NOW, **(refusal | {"sealed": "a.b.c.d.e"}))
    story.scene.witness()
    assert kinds(ask(story.scene)).count("rec") == 2


def test_only_the_trust_bundles_of_the_time_are_taken() -> None:
    scene = Scene()
    scene.left.write(NOW, type="start", node="left", version="0")
    for at in (NOW - 500, NOW - 400, NOW - 300):
        scene.left.bundle(at, pki.PARTNER_CA.der)
    scene.left.bundle(NOW, pki.PARTNER_CA.der, trust_domain=pki.PARTNER)
    tell(scene)
    scene.left.bundle(NOW + 599, pki.PROD_CA.der)
    scene.left.bundle(NOW + 601, pki.PROD_CA.der)
    taken = [
        json.loads(each.json)["at_ms"] // 1000 - NOW for each in ask(scene).bundle.artifacts if '"x509"' in each.json
    ]
    assert sorted(taken) == [0, 0, 599]


def test_before_the_first_trust_bundle_that_first_one_is_taken() -> None:
    scene = Scene().begin()
    scene.right.lines.clear()
    scene.left.lines = [line for line in scene.left.lines if b"bundle" not in line]
    scene.call("shell", "orchestrator")
    scene.left.bundle(NOW + 5_000, pki.PROD_CA.der)
    assert "bundle" in kinds(collect((scene.left.source(),), Selection()))


def test_intermediates_are_taken_and_leaves_of_others_are_not() -> None:
    story = tell()
    intermediate = pki.authority("intermediate CA", "prod CA")
    stranger = pki.svid(spiffe("stranger"))
    for der in (intermediate.der, stranger.der, b"no certificate"):
        story.scene.left.certificate(der, NOW)
    certificates = ask(story.scene).bundle.certificates
    assert intermediate.der in certificates
    assert stranger.der not in certificates


def test_what_attestors_said_of_the_leaves_is_taken() -> None:
    story = tell()
    story.scene.left.certificate(ATTESTOR.der, NOW)
    said = attestor_says(story.scene, Verdict.ATTESTED)
    about = seal(said, ATTESTOR)
    other = seal(replace(said, sx=thumbprint(pki.GATEWAY.der), jti=story.scene.fresh()), ATTESTOR)
    for text in (about, other):
        story.scene.left.statement(text, "received", NOW)
    story.scene.left.write(NOW, type="att", dir="received", verdict="refused", sealed=about)
    story.scene.left.write(NOW, type="att", dir="received", verdict="accepted", sealed="a.b")
    collected = ask(story.scene)
    texts = {each.sealed for each in collected.bundle.statements}
    assert about in texts
    assert other not in texts
    assert ATTESTOR.der in collected.bundle.certificates
    assert len(collected.unreadable) == 1


def test_lines_that_are_no_entries_are_named_and_left_out() -> None:
    story = tell()
    story.scene.left.lines.append(b'{"n":%d,"at_ms":1,"type":"unheard of"}' % len(story.scene.left.lines))
    record = json.loads(next(line for line in story.scene.left.lines if b'"rec"' in line))
    story.scene.left.write(NOW, **{name: value for name, value in record.items() if name != "n"} | {"sealed": "a.b"})
    story.scene.left.write(NOW, type="attest", at_ms="x", sealed="a.b")
    collected = ask(story.scene)
    assert len(collected.unreadable) == 3


def test_a_log_without_a_key_is_not_listed() -> None:
    log = NodeLog("left")
    assert collect((replace(log.source(), vkey=""),), Selection()).bundle.logs == ()
