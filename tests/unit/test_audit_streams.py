"""Streams that ended well: what their statements say of each other holds, and the report has all of it."""

from __future__ import annotations

from audit_attacks import passed
from audit_scene import tell
from hopseal.cli.audit_json import hop_json
from hopseal.custody.outcome import Fin
from hopseal.log.audit.report import HopAudit, Verdict


def _stream_hop(*, early: bool) -> HopAudit:
    story = tell()
    scene = story.scene
    text = scene.call("orchestrator", "crm-connector", story.first, bm="stream")
    for maker in ("orchestrator", "crm-connector"):
        scene.segment(text, maker, passed(40), passed(50))
        scene.segment(text, maker, passed(60), passed(70), seq=1)
    scene.close(text, length=60, cd=passed(60).cd, messages=6, fin=Fin.ABORT if early else Fin.EOF)
    end = {"fin": Fin.EARLY, "req": passed(40)} if early else {"req": passed(60)}
    scene.answer(text, length=70, cd=passed(70).cd, messages=7, **end)
    scene.witness()
    hops = [hop for chain in scene.audit().chains for hop in chain.hops()]
    (hop,) = [hop for hop in hops if hop.segments]
    return hop


def test_a_stream_with_true_segments_and_ends_is_verified() -> None:
    for early in (False, True):
        hop = _stream_hop(early=early)
        assert (hop.verdict, hop.finding, len(hop.segments)) == (Verdict.VERIFIED, None, 4)


def test_the_report_has_counts_segments_and_what_was_taken() -> None:
    told = hop_json(_stream_hop(early=True))
    assert (told["answers"][0]["fin"], told["answers"][0]["messages"]) == ("early", 7)
    assert told["answers"][0]["request"]["len"] == 40
    assert (told["closings"][0]["messages"], told["closings"][0]["fin"]) == (6, "abort")
    assert [(each["seq"], each["up"]["n"]) for each in told["segments"]] == [(0, 4), (1, 6), (0, 4), (1, 6)]
