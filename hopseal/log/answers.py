"""What logs hold about the answers of one chain: receipts and observations, verified again, and refused answers.

Owns: judging each receipt at T = its ``iat`` by what logs hold, and whether it is about the record that it names.
What it cannot show, because the log does not hold the messages: whether status and digest are those of the answer.
Those were checked when the receipt was accepted.
Source: custody-wire §7.1, §11 (steps 1, 4 and 7, without witnessed time).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hopseal.custody.errors import CustodyError
from hopseal.custody.observation import Observation
from hopseal.custody.outcome import Outcome
from hopseal.custody.receipt import Receipt
from hopseal.custody.statement import parse_sealed_statement, type_of
from hopseal.custody.verification import StatementVerifier
from hopseal.log.chain_evidence import CONTRADICTION, ChainEvidence
from hopseal.log.entries import LogEntry, StatementEntry, StatementKind

_ANSWERS = (StatementKind.RECEIPT, StatementKind.OBSERVATION)


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """One answer to a record, as the receipt in a log tells of it; of a callee without custody, an observation.

    Args:
        hash: statement hash of the receipt or observation; empty if there is none that can be read.
        outcome: its claims; only ``verified`` says whether they can be relied on.
        refused: code with which the caller's broker refused the answer; None if it was accepted.
        code: why the receipt does not verify; None if it does, or if the answer was refused.
        detail: for the operator.
        host: where an observed answer came from; None of a receipt.
        spki: hash of the public key of that server.
    """

    hash: str
    outcome: Outcome | None
    refused: str | None
    code: str | None
    detail: str
    host: str | None = None
    spki: str | None = None

    @property
    def verified(self) -> bool:
        """Whether the receipt holds."""
        return self.refused is None and self.code is None


def judge_answers(
    entries: Iterable[LogEntry], evidence: ChainEvidence, verifier: StatementVerifier
) -> dict[str, tuple[AnswerReport, ...]]:
    """Reports on the answers of the chain, by statement hash of the record; the same receipt in two logs is one."""
    found: dict[str, dict[AnswerReport, None]] = {}
    for entry in entries:
        if isinstance(entry, StatementEntry) and entry.kind in _ANSWERS and entry.cid == evidence.cid:
            found.setdefault(entry.rec or "", {})[_judge(entry, evidence, verifier)] = None
    return {record: tuple(reports) for record, reports in found.items()}


def _judge(entry: StatementEntry, evidence: ChainEvidence, verifier: StatementVerifier) -> AnswerReport:
    if not entry.accepted:
        return AnswerReport("", None, entry.code or "", None, entry.detail or "")
    try:
        sealed = parse_sealed_statement(entry.sealed or "")
    except CustodyError as error:
        return AnswerReport("", None, None, CONTRADICTION, f"said to be accepted, and cannot be read: {error.detail}")
    claims, code, detail = sealed.claims, None, ""
    if not isinstance(claims, Receipt | Observation) or type_of(claims) != entry.kind:
        return AnswerReport("", None, None, CONTRADICTION, f"said to be accepted, and no {entry.kind}")
    outcome = claims.outcome
    host, spki = (claims.host, claims.spki) if isinstance(claims, Observation) else (None, None)
    try:
        verifier.verify(sealed, evidence.certificates, evidence.bundles_at(outcome.iat), outcome.iat)
    except CustodyError as error:
        code, detail = str(error.code), error.detail or ", ".join(error.missing)
    else:
        if fault := _misfit(entry, outcome, evidence):
            code, detail = CONTRADICTION, fault
    return AnswerReport(sealed.hash, outcome, None, code, detail, host, spki)


def _misfit(entry: StatementEntry, outcome: Outcome, evidence: ChainEvidence) -> str:
    """Why a receipt that holds is not what its entry says, or not about its record; empty if all fits."""
    stated = (str(outcome.iss), str(outcome.aud), outcome.cid, outcome.rec, outcome.st)
    if stated != (entry.iss, entry.aud, entry.cid, entry.rec, entry.st):
        return "the claims beside a receipt are not those in it"
    record = evidence.records.get(outcome.rec)
    if entry.kind is StatementKind.OBSERVATION:
        is_own = record is None or record.record.iss == outcome.iss
        return "" if is_own else "the observation is not by who sent the record"
    if record is not None and (record.record.aud, record.record.iss) != (str(outcome.iss), outcome.aud):
        return "the receipt is not by whom the record was sent to, or not for its sender"
    return ""
