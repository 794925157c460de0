"""``hopseal audit verify``: what an evidence bundle proves, offline."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import click

from hopseal.cli.audit_inputs import bundle_argument, judging_options, load_policy, load_trust, read_evidence_file
from hopseal.cli.audit_json import chain_json, joined_json
from hopseal.cli.audit_text import format_chain, print_report
from hopseal.cli.audit_workers import AuditInputs, run_audit, without_collector
from hopseal.cli.lazy import EXIT_NO
from hopseal.cli.output import json_option, print_json
from hopseal.log.audit.report import Verdict
from hopseal.log.bundle import parse_evidence
from hopseal.log.bundle_lines import DepartsError, read_lines


@click.command()
@bundle_argument
@judging_options
@click.option("--brief", is_flag=True, help="One line for each hop, and what is wrong or missing.")
@click.option("--jobs", type=click.IntRange(1), help="Processes. Default: all cores.")
@json_option
@click.pass_context
def verify(
    context: click.Context,
    /,
    *,
    bundle: Path,
    policy_file: Path | None,
    witness_keys: tuple[str, ...],
    trust_file: Path | None,
    now: int | None,
    brief: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Verify an evidence BUNDLE with nothing but a log policy: no network, no running broker, years later.

    For each hop: who called whom, on whose behalf, for which task, what the chain allowed before and after, when it
    was made and by when witnesses had seen it, how it was answered, and what is missing. Each refusal names the step
    of the algorithm in docs/custody-wire.md, section 11.

    A hop without custody is never verified: the callee knows nothing of it, and its caller's broker alone says what it
    saw. Such a hop is observed, and so is a chain with one in which nothing is refused or missing.

    Exits 0 if everything is verified or observed, 1 if anything is refused or incomplete, 2 if the bundle or a policy
    cannot be read.

    \b
    Example:
      hopseal audit verify task-1.evidence --policy witnesses.policy
      hopseal audit verify task-1.evidence --policy witnesses.policy --trust trust.json --json
    """
    with without_collector():
        inputs = read_inputs(bundle, policy_file, witness_keys, trust_file, now)
        verdict = _print_json(inputs, jobs) if as_json else _print_text(inputs, jobs, brief=brief)
    if verdict not in {Verdict.VERIFIED, Verdict.OBSERVED}:
        context.exit(EXIT_NO)


def _print_json(inputs: AuditInputs, jobs: int | None) -> Verdict:
    report = run_audit(inputs, chain_json, jobs)
    print_json(joined_json(report))
    return report.verdict


def _print_text(inputs: AuditInputs, jobs: int | None, *, brief: bool) -> Verdict:
    report = run_audit(inputs, partial(format_chain, brief=brief), jobs)
    print_report(report)
    return report.verdict


def read_inputs(
    path: Path, policy_file: Path | None, witness_keys: tuple[str, ...], trust_file: Path | None, now: int | None
) -> AuditInputs:
    """What an audit of the bundle at ``path`` is made from."""
    data = read_evidence_file(path)
    try:
        evidence = read_lines(data)
    except DepartsError:
        evidence = parse_evidence(data)
    policy = load_policy(policy_file, witness_keys, evidence)
    return AuditInputs(data, evidence, policy, load_trust(trust_file), int(time.time()) if now is None else now)
