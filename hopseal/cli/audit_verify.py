"""``hopseal audit verify``: what an evidence bundle proves, offline."""

from __future__ import annotations

import time
from pathlib import Path

import click

from hopseal.cli.audit_inputs import bundle_argument, judging_options, load_policy, load_trust, read_evidence
from hopseal.cli.audit_json import report_json
from hopseal.cli.audit_text import print_report
from hopseal.cli.audit_workers import run_audit
from hopseal.cli.lazy import EXIT_NO
from hopseal.cli.output import json_option, print_json
from hopseal.log.audit.report import AuditReport, Verdict
from hopseal.log.audit.run import Auditor


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

    Exits 0 if everything is verified, 1 if anything is refused or incomplete, 2 if the bundle or a policy cannot be
    read.

    \b
    Example:
      hopseal audit verify task-1.evidence --policy witnesses.policy
      hopseal audit verify task-1.evidence --policy witnesses.policy --trust trust.json --json
    """
    report = judge(bundle, policy_file, witness_keys, trust_file, now, jobs)
    if as_json:
        print_json(report_json(report))
    else:
        print_report(report, brief=brief)
    if report.verdict is not Verdict.VERIFIED:
        context.exit(EXIT_NO)


def judge(
    path: Path,
    policy_file: Path | None,
    witness_keys: tuple[str, ...],
    trust_file: Path | None,
    now: int | None,
    jobs: int | None,
) -> AuditReport:
    """The report on the bundle at ``path``."""
    evidence = read_evidence(path)
    policy = load_policy(policy_file, witness_keys, evidence)
    trust = load_trust(trust_file)
    return run_audit(Auditor(evidence, policy, trust, int(time.time()) if now is None else now), jobs)
