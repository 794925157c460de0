"""The auditor: a bundle, a policy and a trust policy in, a report out.

Owns: the order of the work, in three parts so that the middle one can be spread over processes:
``Auditor(…)`` reads everything and verifies what vouches for others (bundles, revocations, keys of logs);
``check`` does steps 1 to 5 for some statements, each by itself; ``conclude`` does steps 6 to 8 over all.
Does not own: processes and progress. The time is an argument and only bounds cosignatures from the future: the report
on a bundle is the same years later.
Source: custody-wire §11.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from hopseal.custody.certs import CertificateCache, KnownCertificates
from hopseal.custody.errors import CustodyError
from hopseal.custody.evidence_statement import Verdict as AttestorVerdict
from hopseal.log.audit.artifacts import ArtifactProblem, read_artifacts
from hopseal.log.audit.codes import MESSAGES, AuditCode
from hopseal.log.audit.conclude import Conclusion
from hopseal.log.audit.report import AuditReport, UnreadStatement
from hopseal.log.audit.statements import ReadStatement, read_statement
from hopseal.log.audit.steps import Revocation, StatementAuditor, StatementReport
from hopseal.log.audit.trust import TrustHistory, TrustPolicy
from hopseal.log.audit.witnessed import Witnesses
from hopseal.log.bundle import EvidenceBundle, merge_statements
from hopseal.log.judge import Finding
from hopseal.log.policy import Policy


class Auditor:
    """The audit of one bundle.

    Args:
        bundle: as it was read.
        policy: which logs and witnesses are trusted.
        trust: whose identities are accepted.
        now: seconds since 1970.
    """

    def __init__(self, bundle: EvidenceBundle, policy: Policy, trust: TrustPolicy, now: int) -> None:
        witnesses = Witnesses(policy, now)
        self._artifacts = read_artifacts(bundle.artifacts, bundle.proofs, witnesses)
        self._history = TrustHistory(self._artifacts.bundles, trust)
        self._statements, self._unread = _read_all(bundle)
        self._logs = {(log.key.name, str(log.key)) for log in policy.logs}
        known = _certificates(bundle)
        without_revocations = StatementAuditor(known, bundle.proofs, witnesses, self._history)
        self._check_announcements(without_revocations)
        revocations = [*self._artifacts.revocations, *self._withdrawals(without_revocations)]
        self._auditor = StatementAuditor(known, bundle.proofs, witnesses, self._history, revocations)

    @property
    def count(self) -> int:
        """How many statements there are to check."""
        return len(self._statements)

    def check(self, start: int, stop: int) -> list[StatementReport]:
        """Steps 1 to 5 for the statements from ``start`` to before ``stop``."""
        return [self._auditor.audit(each) for each in self._statements[start:stop]]

    def conclude(self, reports: Sequence[StatementReport]) -> AuditReport:
        """Steps 6 to 8; ``reports`` are those on every statement, in order."""
        pairs = zip(self._statements, reports, strict=True)
        return Conclusion(pairs, self._artifacts, self._history).report(tuple(self._unread))

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
        for each in chain(self._statements, self._artifacts.revoking):
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
    auditor = Auditor(bundle, policy, trust, now)
    return auditor.conclude(auditor.check(0, auditor.count))


def _read_all(bundle: EvidenceBundle) -> tuple[list[ReadStatement], list[UnreadStatement]]:
    read, unread = [], []
    for position, logged in enumerate(merge_statements(bundle.statements)):
        try:
            read.append(read_statement(logged))
        except CustodyError as error:
            unread.append(UnreadStatement(position, Finding(1, error.code, error.detail)))
    return read, unread


def _certificates(bundle: EvidenceBundle) -> KnownCertificates:
    entries = len(bundle.certificates) + 1
    cache = CertificateCache(entries=entries, per_peer=entries)
    for der in bundle.certificates:
        cache.add(der, "bundle")
    return KnownCertificates((), cache)
