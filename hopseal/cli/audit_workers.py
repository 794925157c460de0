"""The auditor's middle part over all cores, with a progress bar.

Owns: processes and progress. The result does not depend on how many there are: each statement is judged by itself, and
the reports are put back in order. Workers are forks: they share what the auditor has read, and send back verdicts only.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor

from hopseal.cli.output import is_terminal
from hopseal.errors import BugError
from hopseal.log.audit.report import AuditReport
from hopseal.log.audit.run import Auditor
from hopseal.log.audit.steps import Entry, StatementReport
from hopseal.log.audit.witnessed import WitnessedEntry
from hopseal.log.entries import Direction
from hopseal.log.judge import Finding

FEW = 512  # statements that one process judges faster than others are started
_BATCH = 256
_auditor: Auditor | None = None
_PackedEntry = tuple[int | None, str, int, int, bytes, str | None]
_Packed = tuple[tuple[int, str, str] | None, tuple[str, ...], tuple[_PackedEntry, ...], int | None]


def run_audit(auditor: Auditor, jobs: int | None = None) -> AuditReport:
    """The report of ``auditor``; ``jobs`` processes, all cores unless given."""
    workers = jobs or _cores()
    if workers == 1 or auditor.count <= FEW:
        return auditor.conclude(_serial(auditor))
    return auditor.conclude(_parallel(auditor, workers))


def _cores() -> int:
    """Those that this process may use; one where processes cannot be forked."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serial(auditor: Auditor) -> list[StatementReport]:
    reports: list[StatementReport] = []
    with _progress(auditor.count) as advance:
        for start, stop in _ranges(auditor.count):
            reports += auditor.check(start, stop)
            advance(stop - start)
    return reports


def _parallel(auditor: Auditor, workers: int) -> list[StatementReport]:
    global _auditor  # noqa: PLW0603 - what a fork inherits has to be reachable without an argument
    _auditor = auditor
    context = multiprocessing.get_context("fork")
    # What is shared is never garbage: without this each worker's collector would touch, and so copy, all of it.
    gc.freeze()
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            # Submitting forks; the bar's thread is started afterwards, since a fork has no thread but its own.
            futures = [pool.submit(_check, start, stop) for start, stop in _ranges(auditor.count)]
            with _progress(auditor.count) as advance:
                for future in futures:
                    future.add_done_callback(_count(advance))
                return [_unpack(packed) for future in futures for packed in future.result()]
    finally:
        _auditor = None
        gc.unfreeze()


def _check(start: int, stop: int) -> list[_Packed]:
    if _auditor is None:
        raise BugError("no_auditor", "a worker was forked without an auditor")
    return [_pack(report) for report in _auditor.check(start, stop)]


def _pack(report: StatementReport) -> _Packed:
    """A report as plain tuples, which pass between processes in a tenth of the time."""
    finding = report.finding
    return (
        (finding.step, finding.code, finding.detail) if finding else None,
        report.missing,
        tuple(
            (seen.at, seen.origin, seen.index, seen.size, seen.root, str(each.direction) if each.direction else None)
            for each in report.entries
            for seen in (each.witnessed,)
        ),
        report.at,
    )


def _unpack(packed: _Packed) -> StatementReport:
    finding, missing, entries, at = packed
    found = tuple(
        Entry(WitnessedEntry(seen_at, origin, index, size, root), Direction(direction) if direction else None)
        for seen_at, origin, index, size, root, direction in entries
    )
    return StatementReport(Finding(*finding) if finding else None, missing, found, at)


def _count(advance: Callable[[int], None]) -> Callable[[Future[list[_Packed]]], None]:
    def done(future: Future[list[_Packed]]) -> None:
        if not future.cancelled() and future.exception() is None:
            advance(len(future.result()))

    return done


def _ranges(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _BATCH):
        yield start, min(start + _BATCH, count)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Advances a bar on the terminal; nothing in a pipe, or for what is done before a bar is seen."""
    if total <= FEW or not is_terminal():
        yield lambda _count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
