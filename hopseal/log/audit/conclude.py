"""Steps 6 to 8 over the whole bundle: chains judged with the proven time, cross-checks, and the report.

Owns: putting what was found about single statements together. Source: custody-wire §11.6 to §11.8.
"""

from __future__ import annotations

from collections.abc import Iterable

from hopseal.custody.closing import Closing
from hopseal.custody.errors import Code
from hopseal.custody.evidence_statement import EvidenceStatement, is_accepted
from hopseal.custody.observation import Observation
from hopseal.custody.record import Record, SealedRecord
from hopseal.custody.segment import Segment
from hopseal.log.audit.artifacts import Artifacts, Refusal
from hopseal.log.audit.codes import is_missing
from hopseal.log.audit.cross import cross_check
from hopseal.log.audit.facts import Facts, build_table
from hopseal.log.audit.report import (
    AnswerAudit,
    AuditReport,
    ChainAudit,
    Citation,
    ClosingAudit,
    HopAudit,
    LooseStatement,
    ReportOf,
    SegmentAudit,
    UnreadStatement,
    Verdict,
    verdict_of,
    worst,
)
from hopseal.log.audit.statements import ReadStatement
from hopseal.log.audit.steps import StatementReport
from hopseal.log.audit.trust import TrustHistory
from hopseal.log.entries import CallEntry, Direction
from hopseal.log.judge import CHAIN_STEP, ChainJudge, Finding, JudgedHop
from hopseal.log.tokens import check_token


class Conclusion:
    """Everything that is known about one bundle.

    Args:
        pairs: every statement and the report on it.
        artifacts: what stands beside the statements.
        history: for the attestors that count.

    Attributes:
        table: every statement and what is known about it.
    """

    def __init__(
        self, pairs: Iterable[tuple[ReadStatement, StatementReport]], artifacts: Artifacts, history: TrustHistory
    ) -> None:
        listed = list(pairs)
        self._count = len(listed)
        self.table = build_table(listed)
        self._chains = self._records_by_chain()
        self._artifacts = artifacts
        self._history = history
        self._refusals: dict[str | None, list[Refusal]] = {}
        for refusal in artifacts.refusals:
            self._refusals.setdefault(refusal.unverified_cid, []).append(refusal)
        self._led_by: dict[str | None, list[CallEntry]] = {}
        for call in artifacts.calls:
            if call.kind == "caller":
                self._led_by.setdefault(call.cid, []).append(call)
        self._tunnels = {call.rec: call for call in artifacts.calls if call.kind == "tunnel"}
        self._evidence: dict[str, list[EvidenceStatement]] = {}
        for facts in self.table.by_hash.values():
            if facts.statement.evidence is not None and facts.holds:
                self._evidence.setdefault(facts.statement.evidence.sx, []).append(facts.statement.evidence)

    def report(self, unread: tuple[UnreadStatement, ...]) -> AuditReport:
        """The report."""
        chains = self._chains
        trees = {cid: self._judge(records) for cid, records in chains.items()}  # 6
        problems = (*self._artifacts.problems, *cross_check(self.table, self._artifacts))  # 7
        for facts in self.table.by_hash.values():
            if facts.finding is not None and is_missing(facts.finding.code):
                facts.lacks(facts.finding.detail)
        loose = self._loose_statements()
        cids = [*chains, *(cid for cid in sorted(loose) if cid not in chains)]
        audits = [self._chain(cid, trees.get(cid, ()), tuple(loose.get(cid, ()))) for cid in cids]  # 8
        missing = tuple(self._artifacts.missing)
        verdicts = [each.verdict for each in audits] or [Verdict.INCOMPLETE]
        verdicts += [verdict_of(each.finding, ()) for each in unread]
        verdicts += [verdict_of(each.finding, ()) for each in problems]
        verdicts += [self._verdict(each) for each in self.table.by_hash.values() if each.statement.cid is None]
        verdicts += [Verdict.INCOMPLETE] if missing else []
        return ReportOf(worst(verdicts), tuple(audits), unread, problems, missing, self._count, self._logs())

    def begins(self) -> dict[str, tuple[int, int, str]]:
        """Of each chain with records, where it stands among others: time, hop and hash of its first record."""
        return {cid: _by_time(*next(iter(records.items()))) for cid, records in self._chains.items()}

    def _records_by_chain(self) -> dict[str, dict[str, SealedRecord]]:
        """Records by chain, the chain that began first at the front."""
        found = ((facts.hash, SealedRecord(facts.statement.sealed, record)) for facts, record in self.table.records)
        chains: dict[str, dict[str, SealedRecord]] = {}
        for statement_hash, sealed in sorted(found, key=lambda each: _by_time(*each)):
            chains.setdefault(sealed.record.cid, {})[statement_hash] = sealed
        return chains

    def _judge(self, records: dict[str, SealedRecord]) -> tuple[JudgedHop, ...]:
        """Step 6 for one chain, with now = T."""
        judge = ChainJudge(records, self._finding, self._moment, self._check_root)
        trees = judge.judge()
        for tree in trees:
            self._note(tree)
        return trees

    def _note(self, hop: JudgedHop) -> None:
        facts = self.table.by_hash[hop.sealed.hash]
        facts.finding = facts.finding or hop.finding
        for child in hop.children:
            self._note(child)

    def _finding(self, sealed: SealedRecord) -> Finding | None:
        """What is wrong with a record by itself, or with naming a parent that is of another chain."""
        parent = self.table.record(str(sealed.record.prev))
        if parent is not None and parent.cid != sealed.record.cid:
            splice = Finding(CHAIN_STEP, Code.CHAIN, "its parent is of another chain")
            return self.table.by_hash[sealed.hash].finding or splice
        return self.table.by_hash[sealed.hash].finding

    def _moment(self, sealed: SealedRecord) -> int:
        at = self.table.by_hash[sealed.hash].at
        return sealed.record.iat if at is None else at

    def _check_root(self, root: SealedRecord) -> None:
        obo = root.record.obo
        if obo is None:
            return
        token = self._artifacts.tokens.get(obo.th)
        if token is None:
            self.table.by_hash[root.hash].lacks(f"token:{obo.th}")
        else:
            check_token(root, obo, token)

    def _chain(self, cid: str, trees: tuple[JudgedHop, ...], loose: tuple[LooseStatement, ...]) -> ChainAudit:
        roots = tuple(sorted(map(self._hop, trees), key=_by_log))
        hops = [each.verdict for root in roots for each in root.walk()] or [Verdict.INCOMPLETE]
        verdict = worst([*hops, *(each.verdict for each in loose)])
        refusals, led_by = tuple(self._refusals.get(cid, ())), tuple(self._led_by.get(cid, ()))
        return ChainAudit(cid, verdict, roots, loose, refusals, led_by)

    def _hop(self, judged: JudgedHop) -> HopAudit:
        facts = self.table.by_hash[judged.sealed.hash]
        record = judged.sealed.record
        about = self.table.about.get(facts.hash, [])
        answers = tuple(self._answers(about))
        closings = tuple(self._closings(about))
        segments = tuple(self._segments(about))
        parts = [self._verdict(facts), *(each.verdict for each in answers), *(each.verdict for each in closings)]
        parts += [each.verdict for each in segments]
        is_observed = self.table.is_without_custody(facts, record)
        parts += [Verdict.OBSERVED] if is_observed else []
        return HopAudit(
            sealed=judged.sealed,
            verdict=worst(parts),
            finding=facts.finding,
            missing=tuple(facts.missing),
            entries=tuple(facts.entries),
            at=facts.at,
            authority_before=judged.authority_before,
            authority_after=judged.authority_after,
            evidence=self._evidence_for(judged.sealed),
            answers=answers,
            closings=closings,
            segments=segments,
            based_on=tuple(self._citation(cited) for cited in record.based_on or ()),
            token=self._token(record),
            children=tuple(sorted(map(self._hop, judged.children), key=_by_log)),
            is_observed=is_observed,
            tunnel=self._tunnels.get(facts.hash),
        )

    def _answers(self, about: list[Facts]) -> Iterable[AnswerAudit]:
        for facts in about:
            if (outcome := facts.statement.outcome) is not None:
                verdict, missing = self._verdict(facts), tuple(facts.missing)
                kind, claims = facts.statement.kind, facts.statement.claims
                host, spki = (claims.host, claims.spki) if isinstance(claims, Observation) else (None, None)
                yield AnswerAudit(facts.hash, kind, outcome, verdict, facts.finding, missing, facts.at, host, spki)

    def _closings(self, about: list[Facts]) -> Iterable[ClosingAudit]:
        for facts in about:
            if isinstance(claims := facts.statement.claims, Closing):
                verdict, missing = self._verdict(facts), tuple(facts.missing)
                yield ClosingAudit(facts.hash, claims, verdict, facts.finding, missing, facts.at)

    def _segments(self, about: list[Facts]) -> Iterable[SegmentAudit]:
        for facts in about:
            if isinstance(claims := facts.statement.claims, Segment):
                verdict, missing = self._verdict(facts), tuple(facts.missing)
                yield SegmentAudit(facts.hash, claims, verdict, facts.finding, missing, facts.at)

    def _loose_statements(self) -> dict[str, list[LooseStatement]]:
        """Statements whose record is not here, or is of another chain, by the chain that they name."""
        found: dict[str, list[LooseStatement]] = {}
        for facts in self.table.by_hash.values():
            cid, subject = facts.statement.cid, facts.statement.subject
            record = self.table.record(subject) if subject is not None else None
            if cid is not None and subject is not None and (record is None or record.cid != cid):
                kind, verdict = facts.statement.kind, self._verdict(facts)
                loose = LooseStatement(facts.hash, kind, verdict, facts.finding, tuple(facts.missing))
                found.setdefault(cid, []).append(loose)
        return found

    def _verdict(self, facts: Facts) -> Verdict:
        return verdict_of(facts.finding, facts.missing)

    def _evidence_for(self, sealed: SealedRecord) -> EvidenceStatement | None:
        """What an accepted attestor said last of the caller's leaf before the record; what does not count is absent."""
        record, x5t = sealed.record, sealed.statement.seal.x5t
        attestors = {record.iss.trust_domain: self._history.attestors(record.iss.trust_domain)}
        accepted = [
            each
            for each in self._evidence.get(x5t, ())
            if each.iat <= record.iat and is_accepted(each, attestors, sub=record.iss, x5t=x5t, now=record.iat)
        ]
        return max(accepted, key=lambda each: each.iat, default=None)

    def _citation(self, cited: str) -> Citation:
        facts = self.table.by_hash.get(cited)
        return Citation(cited, facts.statement.subject if facts else None)

    def _token(self, record: Record) -> bool | None:
        return None if record.obo is None else record.obo.th in self._artifacts.tokens

    def _logs(self) -> tuple[str, ...]:
        entries = (entry for facts in self.table.by_hash.values() for entry in facts.entries)
        return tuple(sorted({each.witnessed.origin for each in entries}))


def _by_time(statement_hash: str, sealed: SealedRecord) -> tuple[int, int, str]:
    return sealed.record.iat, sealed.record.hop, statement_hash


def _by_log(hop: HopAudit) -> tuple[int, int]:
    """Calls of one component in the order of its log, which their times in seconds do not show."""
    sent = (each.witnessed.index for each in hop.entries if each.direction is Direction.SENT)
    return hop.sealed.record.iat, min(sent, default=0)
