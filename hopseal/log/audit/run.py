"""The auditor: a bundle, a policy and a trust policy in, a report out.

Owns: the order of the work, in parts so that it can be spread over processes: ``Auditor(…)`` verifies what vouches for
others (trust bundles, announcements, revocations) and divides the rest into shares of whole chains; ``judge`` does
steps 1 to 8 for one share; ``join`` puts together what came of all. ``audit_bundle`` does everything at once.
Does not own: processes and progress. The time is an argument and only bounds cosignatures from the future: the report
on a bundle is the same years later.
Source: custody-wire §11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

from hopseal.custody.certs import CertificateCache, KnownCertificates
from hopseal.custody.errors import CustodyError
from hopseal.custody.evidence_statement import Verdict as AttestorVerdict
from hopseal.log.audit.artifacts import ArtifactProblem, read_artifacts
from hopseal.log.audit.codes import MESSAGES, AuditCode
from hopseal.log.audit.conclude import Conclusion
from hopseal.log.audit.report import AuditReport, ChainAudit, ReportOf, UnreadStatement, verdict_of, worst
from hopseal.log.audit.shares import Traces, are_apart, arrange, split_chains, traces_of
from hopseal.log.audit.statements import ReadStatement, read_statement
from hopseal.log.audit.steps import Revocation, StatementAuditor
from hopseal.log.audit.trust import TrustHistory, TrustPolicy
from hopseal.log.audit.witnessed import Witnesses
from hopseal.log.bundle import EvidenceBundle
from hopseal.log.judge import Finding
from hopseal.log.policy import Policy

Place = tuple[bool, tuple[int, int, str], str]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Judgement(Generic[T_co]):
    """What came of one share.

    Args:
        report: on its chains.
        places: of each chain, where it stands among all: chains with records first, by their first one.
        traces: of its statements.
    """

    report: ReportOf[T_co]
    places: tuple[Place, ...]
    traces: Traces


class Auditor:
    """The audit of one bundle.

    Args:
        bundle: as it was read.
        policy: which logs and witnesses are trusted.
        trust: whose identities are accepted.
        now: seconds since 1970.
        share_size: how many statements make a share; None divides nothing.

    Attributes:
        shares: positions of statements; all are judged beside those statements that are in none, and of no chain.
    """

    def __init__(
        self, bundle: EvidenceBundle, policy: Policy, trust: TrustPolicy, now: int, *, share_size: int | None = None
    ) -> None:
        witnesses = Witnesses(policy, now)
        self._artifacts = read_artifacts(bundle.artifacts, bundle.proofs, witnesses)
        self._history = TrustHistory(self._artifacts.bundles, trust)
        self._logs = {(log.key.name, str(log.key)) for log in policy.logs}
        self._statements = arrange(bundle.statements)
        common: Sequence[int] = range(len(self._statements))
        self.shares: list[list[int]] = []
        if share_size is not None:
            common, self.shares = split_chains(self._statements.payloads(), share_size)
        self.shares = self.shares or [[]]
        known = _certificates(bundle)
        unrevoked = StatementAuditor(known, bundle.proofs, witnesses, self._history)
        self._check_announcements(unrevoked)
        self._common, self._unread = self._read(common)
        revocations = [*self._artifacts.revocations, *self._withdrawals(unrevoked)]
        self._auditor = StatementAuditor(known, bundle.proofs, witnesses, self._history, revocations)
        self._pairs = [(each, self._auditor.audit(each)) for each in self._common]

    def judge(self, share: Sequence[int], render: Callable[[ChainAudit], T]) -> Judgement[T]:
        """Steps 1 to 8 for the statements of ``share``, beside those that are in none.

        Args:
            share: one of :attr:`shares`.
            render: what to keep of each chain.
        """
        read, unread = self._read(share)
        pairs = [*self._pairs, *((each, self._auditor.audit(each)) for each in read)]
        conclusion = Conclusion(pairs, self._artifacts, self._history)
        report = conclusion.report(tuple(unread))
        begins = conclusion.begins()
        return Judgement(
            report.render(render),
            tuple((each.cid not in begins, begins.get(each.cid, (0, 0, "")), each.cid) for each in report.chains),
            traces_of(conclusion.table, common=self._common),
        )

    def join(self, judgements: Sequence[Judgement[T]]) -> ReportOf[T]:
        """The report of all shares, if they :func:`stand_alone`."""
        reports = [each.report for each in judgements]
        placed = [pair for each in judgements for pair in zip(each.places, each.report.chains, strict=True)]
        unread = sorted((*self._unread, *chain.from_iterable(each.unread for each in reports)), key=_by_position)
        return ReportOf(
            verdict=worst([*(each.verdict for each in reports), *(verdict_of(each.finding, ()) for each in unread)]),
            chains=tuple(rendered for _, rendered in sorted(placed, key=lambda each: each[0])),
            unread=tuple(unread),
            problems=reports[0].problems,
            missing=reports[0].missing,
            statements=len(self._common) + sum(each.statements - len(self._common) for each in reports),
            logs=tuple(sorted({log for each in reports for log in each.logs})),
        )

    def _read(self, positions: Sequence[int]) -> tuple[list[ReadStatement], list[UnreadStatement]]:
        read, unread = [], []
        for position, each in zip(positions, self._statements.read(positions), strict=True):
            try:
                read.append(read_statement(each))
            except CustodyError as error:
                unread.append(UnreadStatement(self._statements.place(position), Finding(1, error.code, error.detail)))
        return read, unread

    def _check_announcements(self, auditor: StatementAuditor) -> None:
        """A broker says which key its log has: the policy's key for that origin must be one of those."""
        for each in self._artifacts.announced:
            finding = auditor.audit(each).finding
            log = each.evidence.log if each.evidence else None
            if finding is None and log is not None and (log.origin, log.vkey) not in self._logs:
                finding = Finding(2, AuditCode.LOG_KEY, MESSAGES[AuditCode.LOG_KEY])
            if finding is not None:
                place = each.seen[0]
                self._artifacts.problems.append(ArtifactProblem(place.origin, place.index, finding))

    def _withdrawals(self, auditor: StatementAuditor) -> list[Revocation]:
        """Evidence statements of accepted attestors that take an identity back."""
        found = []
        for each in chain(self._common, self._artifacts.revoking):
            said = each.evidence
            if said is None or said.verdict is not AttestorVerdict.WITHDRAWN:
                continue
            is_attestor = said.iss in self._history.attestors(said.sub.trust_domain)
            if is_attestor and auditor.audit(each).finding is None:
                found.append(Revocation(said.iat, said.sx, None, f"withdrawn by {said.iss}"))
        return found


def audit_bundle(bundle: EvidenceBundle, policy: Policy, trust: TrustPolicy, now: int) -> AuditReport:
    """The report on ``bundle``; never raises.

    Args:
        bundle: as it was read.
        policy: which logs and witnesses are trusted.
        trust: whose identities are accepted.
        now: seconds since 1970; only cosignatures from later do not count.
    """
    return audit_at_once(bundle, policy, trust, now, lambda judged: judged)


def audit_at_once(
    bundle: EvidenceBundle, policy: Policy, trust: TrustPolicy, now: int, render: Callable[[ChainAudit], T]
) -> ReportOf[T]:
    """The same, with what ``render`` makes of each chain."""
    auditor = Auditor(bundle, policy, trust, now)
    return auditor.join([auditor.judge(share, render) for share in auditor.shares])


def stand_alone(judgements: Sequence[Judgement[T]]) -> bool:
    """Whether nothing in one share has to do with another; else everything has to be judged at once."""
    first = judgements[0].report.problems
    # A fork between an artifact and the statements of one share concerns those of others that stand beside it.
    agree = all(each.report.problems == first for each in judgements)
    return len(judgements) == 1 or (agree and are_apart([each.traces for each in judgements]))


def _by_position(unread: UnreadStatement) -> int:
    return unread.position


def _certificates(bundle: EvidenceBundle) -> KnownCertificates:
    entries = len(bundle.certificates) + 1
    cache = CertificateCache(entries=entries, per_peer=entries)
    for der in bundle.certificates:
        cache.add(der, "bundle")
    return KnownCertificates((), cache)
