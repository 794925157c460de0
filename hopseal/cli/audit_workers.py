"""An audit over all cores, with a progress bar.

Owns: processes and progress. The result does not depend on how many there are: shares of whole chains are judged alone,
and if two of them turn out to have to do with each other, everything is judged at once. Workers are forks: they share
what was read, and send back only what is to be printed.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from hopseal.cli.output import is_terminal
from hopseal.errors import BugError
from hopseal.log.audit.report import ChainAudit, ReportOf
from hopseal.log.audit.run import Auditor, Judgement, audit_at_once, stand_alone
from hopseal.log.audit.trust import TrustPolicy
from hopseal.log.bundle import EvidenceBundle
from hopseal.log.policy import Policy

T = TypeVar("T")
FEW = 512  # statements that one process judges faster than others are started
_BATCH = 512  # statements of a share, or one chain if that has more
_forked: tuple[Auditor, Callable[[ChainAudit], Any]] | None = None


@dataclass(frozen=True, slots=True)
class AuditInputs:
    """What an audit is made from; see :func:`hopseal.log.audit.run.audit_bundle`."""

    bundle: EvidenceBundle
    policy: Policy
    trust: TrustPolicy
    now: int


def run_audit(inputs: AuditInputs, render: Callable[[ChainAudit], T], jobs: int | None = None) -> ReportOf[T]:
    """The report, with what ``render`` makes of each chain; ``jobs`` processes, all cores unless given."""
    bundle, policy, trust, now = inputs.bundle, inputs.policy, inputs.trust, inputs.now
    workers = jobs or _cores()
    if len(bundle.statements) > FEW and (workers > 1 or is_terminal()):
        auditor = Auditor(bundle, policy, trust, now, share_size=_BATCH)
        judgements = _judge(auditor, render, workers)
        if stand_alone(judgements):
            return auditor.join(judgements)
    return audit_at_once(bundle, policy, trust, now, render)


def _judge(auditor: Auditor, render: Callable[[ChainAudit], T], workers: int) -> list[Judgement[T]]:
    if workers > 1 and len(auditor.shares) > 1:
        return _parallel(auditor, render, workers)
    judgements = []
    with _progress(auditor) as advance:
        for share in auditor.shares:
            judgements.append(auditor.judge(share, render))
            advance(len(share))
    return judgements


def _cores() -> int:
    """Those that this process may use; one where processes cannot be forked."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parallel(auditor: Auditor, render: Callable[[ChainAudit], T], workers: int) -> list[Judgement[T]]:
    global _forked  # noqa: PLW0603 - what a fork inherits has to be reachable without an argument
    _forked = (auditor, render)
    try:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
            # Submitting forks; the bar's thread is started afterwards, since a fork has no thread but its own.
            futures = [pool.submit(_judge_forked, number) for number in range(len(auditor.shares))]
            judgements = []
            with _progress(auditor) as advance:
                for share, future in zip(auditor.shares, futures, strict=True):
                    judgements.append(future.result())
                    advance(len(share))
            return judgements
    finally:
        _forked = None


def _judge_forked(number: int) -> Judgement[Any]:
    if _forked is None:
        raise BugError("no_auditor", "a worker was forked without an auditor")
    auditor, render = _forked
    return auditor.judge(auditor.shares[number], render)


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
