"""An audit over all cores, with a progress bar.

Owns: processes and progress. The result does not depend on how many there are: shares of whole chains are judged alone,
and if two of them turn out to have to do with each other, everything is judged at once. Workers are forks: they share
what was read, and send back only what is to be printed.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hopseal.cli.output import is_terminal
from hopseal.errors import BugError
from hopseal.log.audit.report import ChainAudit, ReportOf
from hopseal.log.audit.run import Auditor, Judgement, audit_at_once, stand_alone
from hopseal.log.audit.trust import TrustPolicy
from hopseal.log.audit.witnessed import Proofs
from hopseal.log.bundle import EvidenceBundle, parse_evidence
from hopseal.log.bundle_lines import DepartsError, ProofLines
from hopseal.log.policy import Policy

T = TypeVar("T")
FEW = 512  # statements that one process judges faster than others are started
_BATCH = 512  # statements of a share, or one chain if that has more
_forked: tuple[Auditor, Callable[[ChainAudit], Any], Proofs] | None = None


@dataclass(frozen=True, slots=True)
class AuditInputs:
    """What an audit is made from; see :func:`hopseal.log.audit.run.audit_bundle`.

    Args:
        data: the file.
        bundle: what is in it; its lines may not be read yet.
    """

    data: bytes
    bundle: EvidenceBundle
    policy: Policy
    trust: TrustPolicy
    now: int


def run_audit(inputs: AuditInputs, render: Callable[[ChainAudit], T], jobs: int | None = None) -> ReportOf[T]:
    """The report, with what ``render`` makes of each chain; ``jobs`` processes, all cores unless given."""
    try:
        return _run(inputs, render, jobs or _cores())
    except DepartsError:
        return _run(replace(inputs, bundle=parse_evidence(inputs.data)), render, jobs or _cores())


def _run(inputs: AuditInputs, render: Callable[[ChainAudit], T], workers: int) -> ReportOf[T]:
    bundle, policy, trust, now = inputs.bundle, inputs.policy, inputs.trust, inputs.now
    report = None
    if len(bundle.statements) > FEW and (workers > 1 or is_terminal()):
        auditor = Auditor(bundle, policy, trust, now, share_size=_BATCH)
        judgements = _judge(auditor, render, bundle.proofs, workers)
        report = auditor.join(judgements) if stand_alone(judgements) else None
    if report is None:
        report = audit_at_once(bundle, policy, trust, now, render)
    if isinstance(bundle.proofs, ProofLines):
        bundle.proofs.check_rest()
    return report


def _judge(auditor: Auditor, render: Callable[[ChainAudit], T], proofs: Proofs, workers: int) -> list[Judgement[T]]:
    if workers > 1 and len(auditor.shares) > 1:
        return _parallel(auditor, render, proofs, workers)
    judgements = []
    with _progress(auditor) as advance:
        for share in auditor.shares:
            judgements.append(auditor.judge(share, render))
            advance(len(share))
    return judgements


def _cores() -> int:
    """Those that this process may use; one where processes cannot be forked."""
    if not hasattr(os, "fork"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parallel(auditor: Auditor, render: Callable[[ChainAudit], T], proofs: Proofs, workers: int) -> list[Judgement[T]]:
    import multiprocessing  # noqa: PLC0415 - one process does not need them
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

    global _forked  # noqa: PLW0603 - what a fork inherits has to be reachable without an argument
    _forked = (auditor, render, proofs)
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))
    try:
        # Submitting forks; the bar's thread is started afterwards, since a fork has no thread but its own.
        futures = [pool.submit(_judge_forked, number) for number in range(len(auditor.shares))]
        judgements = []
        with _progress(auditor) as advance:
            for share, future in zip(auditor.shares, futures, strict=True):
                judgement, read = future.result()
                judgements.append(judgement)
                _note_read(proofs, read)
                advance(len(share))
        return judgements
    finally:
        pool.shutdown(cancel_futures=True)
        _forked = None


def _judge_forked(number: int) -> tuple[Judgement[Any], set[str]]:
    """What came of a share, and the keys of the proofs that were read for it."""
    if _forked is None:
        raise BugError("no_auditor", "a worker was forked without an auditor")
    auditor, render, proofs = _forked
    judgement = auditor.judge(auditor.shares[number], render)
    return judgement, proofs.take_read() if isinstance(proofs, ProofLines) else set()


def _note_read(proofs: Proofs, read: set[str]) -> None:
    if isinstance(proofs, ProofLines):
        proofs.note_read(read)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """What an audit makes has no cycles; the collector would look through all of it, and workers would copy it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _progress(auditor: Auditor) -> Iterator[Callable[[int], None]]:
    """Advances a bar on the terminal; nothing in a pipe."""
    if not is_terminal():
        yield lambda _count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=sum(map(len, auditor.shares)))
        yield lambda count: bar.advance(task, count)
