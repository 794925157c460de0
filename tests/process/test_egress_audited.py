"""What data planes log of calls that leave custody, as an auditor judges it: their own lines under a witness."""

from __future__ import annotations

import http.server
import time
from pathlib import Path

import pytest

from audit_scene import WITNESS, NodeLog
from dataplane_chain import three_in_a_row
from dataplane_nodes import Node, Seen, answer, call, spiffe_id
from dataplane_peer import http_request, send
from hopseal.log.audit.report import AuditReport, HopAudit, Verdict
from hopseal.log.audit.run import audit_bundle
from hopseal.log.audit.trust import TrustPolicy
from hopseal.log.collect import collect
from hopseal.log.entries import read_payload
from hopseal.log.policy import parse_policy
from hopseal.log.selection import Selection
from outside_servers import PlainPeer, Service, WebAuthority, describe, service

LEDGER, EDGE = "spiffe://example.org/ledger", "spiffe://example.org/edge/a"


def witnessed(node: Node) -> NodeLog:
    """The node's journal as it is, in a tree that a witness has cosigned."""
    # The log writes space ahead of its end.
    lines = (node.log_dir / "custody.log").read_bytes().rstrip(b"\0").splitlines()
    log = NodeLog(node.folder.name, lines=[read_payload(line) for line in lines])
    log.checkpoint(int(time.time()) + 1)
    return log


def audit(*nodes: Node) -> AuditReport:
    logs = [witnessed(node) for node in nodes]
    bundle = collect([log.source() for log in logs], Selection()).bundle
    text = "".join(f"log {log.key.key}\n" for log in logs) + f"witness w1 {WITNESS.key}\nquorum w1\n"
    return audit_bundle(bundle, parse_policy(text.encode()), TrustPolicy(), int(time.time()) + 5)


def hops(report: AuditReport) -> list[HopAudit]:
    return [hop for chain in report.chains for hop in chain.hops()]


@pytest.mark.parametrize("calls", [1, 12])
def test_a_chain_that_leaves_custody_is_observed_and_its_receipts_name_what_was_observed(
    tmp_path: Path, calls: int
) -> None:
    web = WebAuthority(tmp_path)
    egress = {"egress": {"ca_file": str(web.ca_file), "allow_private": True}}
    with Service(web) as server, three_in_a_row(tmp_path, **egress) as row:
        describe(row.b, {"reasoner": {"services": [service(port=server.port)]}}, may_start=("orchestrator",))

        def think(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
            handle = seen.header("Custody-Handle")
            for number in range(calls):
                assert call(row.b, f"localhost:{server.port}", f"/v1/{number}", handle=handle).status == 200
                assert call(row.b, handle=handle).status == 200
            answer(handler, b"done")

        row.reasoner.respond = think
        assert call(row.a, "reasoner.crm", timeout=30).status == 200
        report = audit(row.a, row.b, row.c)
    findings = [each.finding for hop in hops(report) for each in (hop, *hop.answers) if each.finding]
    assert findings == []
    verdicts = {(hop.sealed.record.aud.partition("://")[0], hop.verdict) for hop in hops(report)}
    assert verdicts == {("spiffe", Verdict.VERIFIED), ("https", Verdict.OBSERVED)}
    assert [chain.verdict for chain in report.chains] == [Verdict.OBSERVED]


def test_what_a_call_without_custody_led_to_is_told_with_it(tmp_path: Path) -> None:
    with three_in_a_row(tmp_path) as row, PlainPeer(row.authority) as peer:
        outside = {
            "accepts": ["spiffe://example.org/edge/*"],
            "peers": [{"name": "ledger", "spiffe_id": LEDGER}],
        }
        describe(row.b, {"reasoner": outside}, may_start=("reasoner",))
        row.b.plane.set_routes(f'{{"{LEDGER}": ["127.0.0.1:{peer.port}"]}}')

        def think(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
            assert call(row.b, "ledger", "/entries", handle=seen.header("Custody-Handle")).status == 200
            answer(handler, b"done")

        row.reasoner.respond = think
        request = http_request("POST", "/mcp", [("host", "x")], b"{}")
        got = send(row.b.port, row.authority.issue(EDGE), request, "reasoner.crm.hopseal.invalid")
        assert got is not None
        assert got.status == 200
        report = audit(row.b)
    (hop,) = hops(report)
    assert (hop.sealed.record.aud, hop.verdict, hop.finding) == (LEDGER, Verdict.OBSERVED, None)
    ((begin, *_),) = (chain.led_by for chain in report.chains)
    assert (begin.iss, begin.aud, begin.op) == (EDGE, spiffe_id("reasoner"), "POST /mcp")
