"""An audit's report as JSON with stable keys; the schema is described in docs/audit.md."""

from __future__ import annotations

from typing import Any

from hopseal.cli.calls_text import call_json
from hopseal.custody.authority import Authority
from hopseal.custody.evidence_statement import EvidenceStatement
from hopseal.custody.kids import kids_to_json
from hopseal.log.audit.report import (
    AnswerAudit,
    AuditReport,
    ChainAudit,
    ClosingAudit,
    HopAudit,
    ReportOf,
    SegmentAudit,
)
from hopseal.log.audit.steps import Entry
from hopseal.log.judge import Finding


def report_json(report: AuditReport) -> dict[str, Any]:
    """The whole report."""
    return joined_json(report.render(chain_json))


def joined_json(report: ReportOf[dict[str, Any]]) -> dict[str, Any]:
    """The whole report, with what :func:`chain_json` made of each chain."""
    return {
        "verdict": str(report.verdict),
        "statements": report.statements,
        "logs": list(report.logs),
        "chains": list(report.chains),
        "unread": [{"position": each.position, "finding": _finding(each.finding)} for each in report.unread],
        "problems": [
            {"origin": each.origin, "index": each.index, "finding": _finding(each.finding)} for each in report.problems
        ],
        "missing": list(report.missing),
    }


def chain_json(chain: ChainAudit) -> dict[str, Any]:
    """One chain."""
    return {
        "cid": chain.cid,
        "verdict": str(chain.verdict),
        "after_calls_without_custody": [call_json(each) for each in chain.led_by],
        "hops": [hop_json(root) for root in chain.roots],
        "loose": [
            {
                "hash": each.hash,
                "type": each.kind,
                "verdict": str(each.verdict),
                "finding": _finding(each.finding),
                "missing": list(each.missing),
            }
            for each in chain.loose
        ],
        "refusals": [
            {
                "log": each.origin,
                "index": each.index,
                "at": each.at,
                "code": each.code,
                "detail": each.detail,
                "unverified_caller": each.unverified_iss,
                "unverified_callee": each.unverified_aud,
                "unverified_jti": each.unverified_jti,
            }
            for each in chain.refusals
        ],
    }


def hop_json(hop: HopAudit) -> dict[str, Any]:
    """One hop and what continues it."""
    record = hop.sealed.record
    return {
        "hash": hop.sealed.hash,
        "verdict": str(hop.verdict),
        "custody": "none" if hop.is_observed else "full",
        "finding": _finding(hop.finding),
        "missing": list(hop.missing),
        "caller": str(record.iss),
        "callee": record.aud,
        "broker": str(record.by) if record.by else None,
        "on_behalf_of": record.obo.to_json() if record.obo else None,
        "token_matches": hop.token,
        "task": record.task.to_json() if record.task else None,
        "operation": record.op,
        "hop": record.hop,
        "jti": record.jti,
        "trace_id": record.tid,
        "approvals": [each.to_json() for each in record.apv or ()],
        "continues": record.cont.to_json() if record.cont else None,
        "authority_before": _authority(hop.authority_before),
        "authority_after": _authority(hop.authority_after),
        "proven_time": {"from": record.iat, "until": hop.at},
        "logged": [_entry(each) for each in hop.entries],
        "evidence": _evidence(hop.evidence),
        "based_on": [{"receipt": each.hash, "record": each.record} for each in hop.based_on],
        "answers": [_answer(each) for each in hop.answers],
        "closings": [_closing(each) for each in hop.closings],
        "segments": [_segment(each) for each in hop.segments],
        "tunnel": call_json(hop.tunnel) if hop.tunnel else None,
        "children": [hop_json(child) for child in hop.children],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "log": entry.witnessed.origin,
        "index": entry.witnessed.index,
        "direction": str(entry.direction) if entry.direction else None,
        "witnessed_at": entry.witnessed.at,
    }


def _evidence(said: EvidenceStatement | None) -> dict[str, Any] | None:
    return {"by": str(said.iss), "at": said.iat, "verdict": str(said.verdict)} if said else None


def _answer(answer: AnswerAudit) -> dict[str, Any]:
    outcome = answer.outcome
    return {
        "hash": answer.hash,
        "type": answer.kind,
        "verdict": str(answer.verdict),
        "finding": _finding(answer.finding),
        "missing": list(answer.missing),
        "by": str(outcome.iss),
        "host": answer.host,
        "key": answer.spki,
        "status": outcome.st,
        "digest": outcome.cd,
        "binding": outcome.rsb,
        "len": outcome.length,
        "fin": str(outcome.fin),
        "messages": outcome.messages,
        "trailers": outcome.tlb,
        "request": None if outcome.req is None else outcome.req.to_members(),
        "kids": kids_to_json(outcome.kids),
        "decision": outcome.dec,
        "proven_time": {"from": outcome.iat, "until": answer.at},
    }


def _closing(closing: ClosingAudit) -> dict[str, Any]:
    return {
        "hash": closing.hash,
        "verdict": str(closing.verdict),
        "finding": _finding(closing.finding),
        "missing": list(closing.missing),
        "digest": closing.claims.cd,
        "len": closing.claims.length,
        "fin": str(closing.claims.fin),
        "messages": closing.claims.messages,
        "trailers": closing.claims.tlb,
        "proven_time": {"from": closing.claims.iat, "until": closing.at},
    }


def _segment(segment: SegmentAudit) -> dict[str, Any]:
    return {
        "hash": segment.hash,
        "verdict": str(segment.verdict),
        "finding": _finding(segment.finding),
        "missing": list(segment.missing),
        "by": str(segment.claims.iss),
        "seq": segment.claims.seq,
        "up": segment.claims.up.to_members(),
        "down": segment.claims.down.to_members(),
        "proven_time": {"from": segment.claims.iat, "until": segment.at},
    }


def _authority(authority: Authority | None) -> dict[str, object] | None:
    return authority.to_json() if authority else None


def _finding(finding: Finding | None) -> dict[str, Any] | None:
    return {"step": finding.step, "code": str(finding.code), "detail": finding.detail} if finding else None
