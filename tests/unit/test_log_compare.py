"""Logs against each other: each kind of difference, and none where there is none."""

from __future__ import annotations

from dataclasses import replace

from audit_scene import Scene, hash_of, seal, tell
from hopseal.custody.outcome import Fin
from hopseal.custody.receipt import Receipt
from hopseal.custody.record import parse_sealed_record
from hopseal.log.compare import Difference, compare_logs
from vectors import pki
from vectors.pki import NOW, spiffe


def differences(scene: Scene) -> set[tuple[Difference, str]]:
    return {(each.kind, each.record) for each in compare_logs((scene.left.source(), scene.right.source()))}


def test_two_logs_of_one_task_do_not_differ() -> None:
    assert differences(tell().scene) == set()


def test_a_record_that_its_receiver_does_not_have_is_found() -> None:
    story = tell()
    text = seal(story.scene.record("orchestrator", "crm-connector", story.first), pki.ORCHESTRATOR)
    story.scene.left.statement(text, "sent", NOW)
    kinds = {Difference.NOT_RECEIVED, Difference.NO_RECEIPT}
    assert differences(story.scene) == {(kind, hash_of(text)) for kind in kinds}


def test_a_receiver_whose_log_is_not_here_is_not_missed() -> None:
    story = tell()
    found = compare_logs((story.scene.left.source(),))
    assert found == ()


def test_a_refused_record_is_not_missed() -> None:
    story = tell()
    text = seal(story.scene.record("orchestrator", "crm-connector", story.first), pki.ORCHESTRATOR)
    story.scene.left.statement(text, "sent", NOW)
    story.scene.right.statement(text, "received", NOW, verdict="refused", code="custody_forbidden")
    denied = seal(story.scene.record("orchestrator", "crm-connector", story.first), pki.ORCHESTRATOR)
    story.scene.left.statement(denied, "sent", NOW)
    story.scene.answer(denied, fin=Fin.DENY, st=403)
    assert differences(story.scene) == {(Difference.NO_RECEIPT, hash_of(text))}


def test_a_record_that_its_sender_does_not_have_is_found() -> None:
    story = tell()
    text = seal(story.scene.record("orchestrator", "crm-connector", story.first), pki.ORCHESTRATOR)
    story.scene.right.statement(text, "received", NOW, ancestors=[])
    story.scene.answer(text)
    assert differences(story.scene) == {(Difference.NOT_SENT, hash_of(text))}


def test_a_record_that_two_replicas_accepted_is_found() -> None:
    story = tell()
    story.scene.right.statement(story.ask, "received", NOW, ancestors=[])
    (found,) = compare_logs((story.scene.left.source(), story.scene.right.source()))
    assert (found.kind, found.record, found.iss) == (Difference.REPLAYED, hash_of(story.ask), spiffe("orchestrator"))
    assert found.logs == (story.scene.left.origin, story.scene.right.origin)


def test_two_records_with_one_jti_are_found() -> None:
    story = tell()
    jti = parse_sealed_record(story.ask).record.jti
    other = story.scene.call("orchestrator", "reasoner", story.first, jti=jti)
    story.scene.answer(other)
    assert differences(story.scene) == {(Difference.JTI_REUSED, hash_of(text)) for text in (story.ask, other)}


def test_receipts_that_differ_are_found() -> None:
    story = tell()
    story.scene.answer(story.lookup, st=500)
    assert differences(story.scene) == {(Difference.RECEIPTS_DIFFER, hash_of(story.lookup))}


def test_a_receipt_that_only_one_side_has_is_found() -> None:
    story = tell()
    for component in ("sent", "received"):
        call = story.scene.call("orchestrator", "crm-connector", story.first)
        text = seal(Receipt(story.scene.outcome(call)), pki.CONNECTOR)
        (story.scene.right if component == "sent" else story.scene.left).statement(text, component, NOW)
    kinds = [each.kind for each in compare_logs((story.scene.left.source(), story.scene.right.source()))]
    assert sorted(kinds) == [Difference.RECEIPT_NOT_RECEIVED, Difference.RECEIPT_NOT_SENT]


def test_a_receipt_for_a_record_that_no_log_has_is_found() -> None:
    story = tell()
    other = tell(Scene(cid=story.scene.fresh()))
    text = seal(Receipt(other.scene.outcome(other.lookup)), pki.CONNECTOR)
    story.scene.right.statement(text, "sent", NOW)
    story.scene.left.statement(text, "received", NOW)
    (found,) = compare_logs((story.scene.left.source(), story.scene.right.source()))
    assert (found.kind, found.record, found.iss, found.iat) == (Difference.NOT_SENT, hash_of(other.lookup), None, None)


def test_what_cannot_be_read_and_what_is_no_answer_is_passed_over() -> None:
    story = tell()
    scene = story.scene
    scene.left.lines.append(b"no entry")
    scene.left.statement(story.ask, "sent", NOW, sealed="a.b.c.d.e")
    outside = scene.call("orchestrator", "https://api.crm.example.com", story.first)
    scene.observe(outside)
    scene.left.write(NOW, type="rec", dir="received", verdict="refused", code="custody_missing")
    source = replace(scene.left.source())
    assert compare_logs((source, scene.right.source())) == ()
