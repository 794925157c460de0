"""The auditor on calls whose other end knows nothing of custody, and on lines about calls without a record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from audit_scene import WITNESS, Scene, hash_of, seal
from hopseal.cli.main import cli
from hopseal.custody.record import parse_sealed_record
from hopseal.ids import SpiffeId
from hopseal.log.audit.graph import build_graph, format_dot
from hopseal.log.audit.report import AuditReport, HopAudit, Verdict, worst
from hopseal.log.compare import Difference, compare_logs
from hopseal.log.entries import CallEntry, LogError, parse_entry
from hopseal.log.leaf import leaf_of_line
from hopseal.log.selection import Selection
from hopseal.log.without_custody import calls_of, may_lack_custody
from vectors.pki import NOW, spiffe

POLICY = f"witness w1 {WITNESS.key}\nquorum w1\n"
LEDGER = "spiffe://prod.example.org/ledger"


def hops(report: AuditReport) -> dict[str, HopAudit]:
    return {hop.sealed.hash: hop for chain in report.chains for hop in chain.hops()}


def call_line(**changes: Any) -> dict[str, Any]:
    """A line as the data plane writes it."""
    line = {
        "type": "call",
        "dir": "received",
        "verdict": "accepted",
        "code": None,
        "detail": None,
        "custody": "none",
        "kind": "caller",
        "phase": "begin",
        "id": "i",
        "iss": "spiffe://prod.example.org/edge",
        "aud": spiffe("orchestrator"),
        "op": "POST /mcp",
        "dec": "d",
        "x5t": None,
        "cid": None,
        "rec": None,
    }
    return line | changes


def ended(**changes: Any) -> dict[str, Any]:
    return {"st": 200, "fin": "eof", "why": "closed", "received": 5, "sent": 7, "address": "192.0.2.1:5432"} | changes


def plain_call(scene: Scene, parent: str | None = None, *, aud: str = LEDGER, **changes: Any) -> str:
    """A call to a SPIFFE peer without custody, which only its caller's node logs."""
    record = replace(scene.record("orchestrator", "ledger", parent), aud=aud, **changes)
    text = seal(record, scene.parties["orchestrator"])
    scene.left.statement(text, "sent", scene.at)
    return text


def observe(scene: Scene, record: str, **changes: Any) -> str:
    return scene.observe(record, iss=SpiffeId.parse(spiffe("orchestrator")), **changes)


def test_a_call_to_a_peer_without_custody_is_observed() -> None:
    scene = Scene().begin()
    first = scene.call("shell", "orchestrator")
    plain = plain_call(scene, first)
    scene.answer(first, observe(scene, plain))
    report = scene.witness().audit()
    assert report.verdict is Verdict.OBSERVED
    hop = hops(report)[hash_of(plain)]
    assert (hop.verdict, hop.is_observed, hop.missing) == (Verdict.OBSERVED, True, ())
    assert "no custody" in format_dot(build_graph(report, judged=True))


def test_a_call_that_asked_for_a_receipt_is_not_made_whole_by_an_observation() -> None:
    scene = Scene().begin()
    asked = plain_call(scene, aud=spiffe("crm-connector"), rr=True)
    observe(scene, asked)
    hop = hops(scene.witness().audit())[hash_of(asked)]
    assert (hop.verdict, hop.is_observed) == (Verdict.INCOMPLETE, False)
    assert set(hop.missing) == {"copy:received", "receipt"}


def test_somebody_elses_observation_stands_for_nothing() -> None:
    scene = Scene().begin()
    plain = plain_call(scene, aud=spiffe("crm-connector"))
    connector = SpiffeId.parse(spiffe("crm-connector"))
    scene.observe(plain, iss=connector, aud=connector)
    hop = hops(scene.witness().audit())[hash_of(plain)]
    assert (hop.verdict, hop.is_observed) == (Verdict.INCOMPLETE, False)


def test_a_call_outside_that_nobody_observed_is_incomplete() -> None:
    scene = Scene().begin()
    outside = scene.call("orchestrator", "https://api.crm.example.com")
    hop = hops(scene.witness().audit())[hash_of(outside)]
    assert (hop.verdict, hop.is_observed, hop.missing) == (Verdict.INCOMPLETE, True, ("observation",))


def test_two_observations_of_one_answer_tell_two_stories() -> None:
    scene = Scene().begin()
    outside = scene.call("orchestrator", "https://api.crm.example.com")
    scene.observe(outside)
    scene.observe(outside, st=500)
    report = scene.witness().audit()
    assert report.verdict is Verdict.REFUSED
    findings = [each.finding for each in hops(report)[hash_of(outside)].answers]
    assert [each.code for each in findings if each] == ["audit_receipt", "audit_receipt"]


def test_an_observation_that_was_made_before_its_parents_receipt_must_be_in_its_kids() -> None:
    scene = Scene().begin()
    first = scene.call("shell", "orchestrator")
    scene.observe(scene.call("orchestrator", "https://api.crm.example.com", first))
    scene.answer(first)
    report = scene.witness().audit()
    (answer,) = hops(report)[hash_of(first)].answers
    assert answer.finding is not None
    assert answer.finding.code == "audit_kids"


def test_many_sub_calls_of_both_kinds_are_one_tree_in_the_order_of_the_log() -> None:
    scene = Scene().begin()
    first = scene.call("shell", "orchestrator")
    made = []
    for number in range(10):
        if number % 2:
            made.append(scene.answer(scene.call("orchestrator", "crm-connector", first)))
        else:
            made.append(scene.observe(scene.call("orchestrator", "https://api.crm.example.com", first)))
    scene.answer(first, *made)
    assert scene.witness().audit().verdict is Verdict.OBSERVED


def test_a_tunnel_has_its_end_in_place_of_an_observation() -> None:
    scene = Scene().begin()
    record = scene.call("orchestrator", "https://db.example.com:5432", op="CONNECT db.example.com:5432")
    end = call_line(kind="tunnel", phase="end", dir="sent", cid=scene.cid, rec=hash_of(record), ended=ended())
    scene.left.write(scene.at, **end)
    report = scene.witness().audit()
    assert report.verdict is Verdict.OBSERVED
    hop = hops(report)[hash_of(record)]
    assert hop.tunnel is not None
    assert (hop.tunnel.sent, hop.tunnel.received, hop.tunnel.why) == (7, 5, "closed")


def test_a_call_without_custody_is_told_of_before_the_chain_that_it_led_to() -> None:
    scene = Scene().begin()
    scene.left.write(scene.at, **call_line(cid=scene.cid))
    scene.left.write(scene.at, **call_line(cid="another chain"))
    scene.answer(scene.call("orchestrator", "crm-connector"))
    report = scene.witness().audit()
    assert report.verdict is Verdict.VERIFIED
    ((led_by,),) = (chain.led_by for chain in report.chains)
    assert (led_by.iss, led_by.op, led_by.phase) == ("spiffe://prod.example.org/edge", "POST /mcp", "begin")


def test_a_line_that_no_log_is_proven_to_hold_says_nothing() -> None:
    scene = Scene().begin()
    scene.answer(scene.call("orchestrator", "crm-connector"))
    scene.witness()
    scene.left.write(scene.at, **call_line(cid=scene.cid))
    report = scene.audit()
    assert [chain.led_by for chain in report.chains] == [()]
    assert report.verdict is Verdict.INCOMPLETE


def test_logs_that_are_compared_do_not_miss_a_receipt_that_nobody_owed() -> None:
    scene = Scene().begin()
    observe(scene, plain_call(scene))
    streamed = scene.call("shell", "orchestrator", bm="stream")
    scene.close(streamed)
    scene.answer(streamed)
    dangling = plain_call(scene)
    found = compare_logs((scene.left.source(), scene.right.source()))
    assert [(each.kind, each.record) for each in found] == [(Difference.NO_RECEIPT, hash_of(dangling))]


def test_observed_stands_between_verified_and_incomplete() -> None:
    assert worst([Verdict.VERIFIED, Verdict.OBSERVED]) is Verdict.OBSERVED
    assert worst([Verdict.OBSERVED, Verdict.INCOMPLETE]) is Verdict.INCOMPLETE


def entry(**changes: Any) -> CallEntry:
    found = parse_entry(json.dumps({"n": 3, "at_ms": NOW * 1_000, **call_line(**changes)}).encode())
    assert isinstance(found, CallEntry)
    return found


def test_a_line_is_read_at_the_beginning_and_at_the_end_of_its_call() -> None:
    begin, end = entry(), entry(phase="end", ended=ended())
    assert (begin.st, begin.address, begin.custody, begin.accepted) == (None, None, "none", True)
    assert (end.st, end.fin, end.address) == (200, "eof", "192.0.2.1:5432")
    text = json.dumps({"n": 3, "at_ms": 0, **call_line()}).encode()
    assert leaf_of_line(text).startswith(b"custody/v1 call ")


@pytest.mark.parametrize(
    "changes",
    [{"custody": "full"}, {"kind": "other"}, {"phase": "middle"}, {"dir": "?"}, {"id": None}, {"ended": 7}],
)
def test_a_line_of_another_form_is_damage(changes: dict[str, Any]) -> None:
    with pytest.raises(LogError):
        entry(**changes)


def test_calls_belong_to_the_chain_that_they_name() -> None:
    scene = Scene()
    assert calls_of((entry(cid=scene.cid), entry()), scene.cid) == (entry(cid=scene.cid),)


@pytest.mark.parametrize(
    ("selection", "fits"),
    [
        (Selection(), True),
        (Selection(cids=frozenset({"c"})), True),
        (Selection(cids=frozenset({"d"})), False),
        (Selection(components=frozenset({"orchestrator"})), True),
        (Selection(components=frozenset({spiffe("orchestrator")})), True),
        (Selection(components=frozenset({"nobody"})), False),
        (Selection(since=NOW, until=NOW), True),
        (Selection(since=NOW + 1), False),
        (Selection(until=NOW - 1), False),
        (Selection(tasks=frozenset({"t"})), False),
        (Selection(users=frozenset({"u"})), False),
    ],
)
def test_a_call_is_selected_by_chain_party_and_time(selection: Selection, fits: bool) -> None:
    call = entry(aud=spiffe("orchestrator"))
    assert selection.fits_call("c", NOW, call) is fits


def test_only_a_record_that_asks_for_no_receipt_may_lack_custody() -> None:
    scene = Scene()
    record = scene.record("orchestrator", "crm-connector")
    assert may_lack_custody(record)
    assert not may_lack_custody(replace(record, rr=True))
    assert may_lack_custody(replace(record, rr=True, aud="https://api.example.com"))
    assert parse_sealed_record(plain_call(scene)).record.rr is None


def test_a_search_has_a_column_for_custody_and_finds_calls_without_a_record(tmp_path: Path) -> None:
    scene = Scene().begin()
    first = scene.call("shell", "orchestrator", rr=True)
    observe(scene, plain_call(scene, first))
    plain_call(scene, first)
    scene.call("orchestrator", "https://api.crm.example.com", first)
    scene.left.write(scene.at, **call_line(cid=scene.cid))
    scene.left.write(scene.at, **call_line(phase="end", ended=ended()))
    scene.left.write(scene.at, **call_line(verdict="refused", code="policy_denied", op="GET /\x1b[1m"))
    scene.witness()
    left, right = scene.save(tmp_path)
    found = CliRunner().invoke(cli, ["audit", "search", "--json", "--log", str(left), "--log", str(right)])
    rows = json.loads(found.stdout)
    told = sorted((row["callee"], row["direction"], row["custody"], row["code"] or "") for row in rows)
    assert told == sorted(
        [
            (spiffe("orchestrator"), "sent", "full", ""),
            (spiffe("orchestrator"), "received", "full", ""),
            (LEDGER, "sent", "none", ""),
            (LEDGER, "sent", "full", ""),
            ("https://api.crm.example.com", "sent", "none", ""),
            (spiffe("orchestrator"), "received", "none", ""),
            (spiffe("orchestrator"), "received", "none", "policy_denied"),
        ]
    )
    shown = CliRunner().invoke(cli, ["audit", "search", "--component", "edge", "--log", str(left)]).output
    assert "policy_denied" in shown
    assert "\x1b" not in shown


def test_the_report_and_the_tree_say_plainly_that_there_was_no_custody(tmp_path: Path) -> None:
    scene = Scene().begin()
    scene.left.write(scene.at, **call_line(cid=scene.cid))
    first = scene.call("shell", "orchestrator")
    plain = plain_call(scene, first)
    seen = observe(scene, plain)
    tunnel = scene.call("orchestrator", "https://db.example.com:5432", first)
    end = call_line(kind="tunnel", phase="end", dir="sent", cid=scene.cid, rec=hash_of(tunnel), ended=ended())
    scene.left.write(scene.at, **end)
    scene.answer(first, seen)
    scene.witness()
    left, right = scene.save(tmp_path)
    logs = ["--log", str(left), "--log", str(right)]
    bundle, policy = tmp_path / "evidence", tmp_path / "policy"
    policy.write_text("".join(f"log {log.key.key}\n" for log in (scene.left, scene.right)) + POLICY)
    made = CliRunner().invoke(cli, ["audit", "export", "--cid", scene.cid, "-o", str(bundle), *logs])
    assert made.exit_code == 0, made.output
    judged = [str(bundle), "--policy", str(policy), "--now", str(NOW + 60)]
    verified = CliRunner().invoke(cli, ["audit", "verify", *judged])
    assert verified.exit_code == 0, verified.output
    for text in (
        "observed  (1 hop verified, 2 without custody)",
        "after a call without custody: spiffe://prod.example.org/edge →",
        f"○ crm-assistant/orchestrator → {LEDGER}",
        "no custody",
        "alone: from api.crm.example.com, key",
        "tunnel: 7 bytes out, 5 bytes back at 192.0.2.1:5432, eof (closed)",
    ):
        assert text in verified.output, (text, verified.output)
    as_json = json.loads(CliRunner().invoke(cli, ["audit", "verify", *judged, "--json"]).stdout)
    (chain,) = as_json["chains"]
    children = {hop["callee"]: hop for hop in chain["hops"][0]["children"]}
    assert (as_json["verdict"], chain["hops"][0]["custody"], children[LEDGER]["custody"]) == (
        "observed",
        "full",
        "none",
    )
    assert children[LEDGER]["answers"][0]["host"] == "api.crm.example.com"
    assert children["https://db.example.com:5432"]["tunnel"]["sent"] == 7
    assert chain["after_calls_without_custody"][0]["caller"] == "spiffe://prod.example.org/edge"
    shown = CliRunner().invoke(cli, ["audit", "show", "--cid", scene.cid, *logs]).output
    assert "no custody" in shown


def test_the_log_on_a_terminal_says_that_there_was_no_custody(tmp_path: Path) -> None:
    scene = Scene().begin()
    observe(scene, plain_call(scene))
    scene.left.write(scene.at, **call_line(phase="end", ended=ended()))
    scene.left.write(scene.at, **call_line(verdict="refused", code="policy_denied"))
    left, _ = scene.witness().save(tmp_path)
    shown = CliRunner().invoke(cli, ["logs", "--log", str(left / "log")]).output
    assert "observation 200  no custody" in shown
    assert "no custody (caller, end)  200, 5 bytes, eof" in shown
    assert "no custody (caller, begin)  policy_denied" in shown
